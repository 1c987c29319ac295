"""A stand-in for the two apps of a run: no model, no agent, the same files and progress."""

from tests.server_ops.operating import COMMANDS

SERVER_APP = """
import json
import time
from datetime import UTC, datetime
from pathlib import Path

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    directory = Path(str(config["tacit.directory"]))

    def tell(event, **figures):
        at = datetime.now(UTC).isoformat()
        with (directory / "progress.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "at": at, **figures}) + "\\n")

    figures = {"aggregation": "plain", "least_participants": 1, "colluders": 0}
    plan = json.dumps({"epsilon": 8.0, "delta": 0.001, **figures})
    (directory / "plan.json").write_text(json.dumps({"sha256": "ab" * 32, "plan": plan}))
    tell("planned", organisations=config["partition.organisations"])
    done = directory / "rounds"
    first = int(done.read_text()) + 1 if done.exists() else 1
    rounds = config["training.rounds"]
    for number in range(first, rounds + 1):
        nodes = list(grid.get_node_ids())
        content = RecordDict({"c": ConfigRecord({"round": number})})
        messages = [Message(content, dst_node_id=node, message_type="query") for node in nodes]
        replies = [m for m in grid.send_and_receive(messages, timeout=60) if m.has_content()]
        done.write_text(str(number))
        tell("round", round=number, rounds=rounds, replies=len(replies))
    if config["run.seed"] == 13:
        raise RuntimeError("the stand-in was told to fail")
    tell("finished")
"""

CLIENT_APP = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
def answer(message, context):
    return Message(RecordDict({"c": ConfigRecord({"agent": "none"})}), reply_to=message)
"""

STANDIN_COMMANDS = f"""
import server.ops.submit as submit
real = submit.build_app

def build_app(*arguments):
    app = real(*arguments)
    (app / "server" / "app.py").write_text({SERVER_APP!r})
    (app / "client" / "app.py").write_text({CLIENT_APP!r})
    return app

submit.build_app = build_app
{COMMANDS}
"""
