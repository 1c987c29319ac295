"""A ServerApp that asks for what no organisation should give; takes the place of ``server/app.py``.

It holds the key of an approved federation, so that its requests are heard at all.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from server.heads import HeadBook
from shared import messages
from shared.config import from_run_config
from shared.files import write_json
from shared.keys import SigningKey
from shared.messages import Request, pack_request, signed
from shared.models import load_model
from shared.plan import PrivacyPlan, make_plan
from shared.settings import shared_settings

TIMEOUT_S = 120.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Make every attempt at every node, one after the other, and write down what came back."""
    directory = Path(str(context.run_config["tacit.directory"]))
    kept: dict[str, list[str]] = {}
    for name, kind, request, key in attempts(context):
        content = pack_request(signed(kind, request, key))
        sent = [Message(content, node, kind, group_id="1") for node in grid.get_node_ids()]
        replies = list(grid.send_and_receive(sent, timeout=TIMEOUT_S))
        kept[name] = [
            reply.error.reason if reply.has_error() else f"ANSWERED {sorted(reply.content)}"
            for reply in replies
        ]
        write_json(directory / "attempts.json", kept)


def attempts(context: Context) -> Iterator[tuple[str, str, Request, SigningKey]]:
    """Name, kind and content of each request, and the key that signs it."""
    config = from_run_config(context.run_config)
    loaded = load_model(config)
    own = HeadBook(Path(str(context.run_config["tacit.server"]))).key
    run = str(context.run_config["tacit.run"])
    honest = make_plan(config, 3400, 3)
    base = Request(run, 1, honest, loaded.sha256, dict(loaded.initial), settings="")
    base = dataclasses.replace(base, settings=shared_settings(config))

    def of(plan: PrivacyPlan, name: str) -> Request:
        return dataclasses.replace(base, plan=plan, run=f"{run}-{name}")

    assert honest.step is not None
    no_noise = dataclasses.replace(honest.step, noise_multiplier=0.0)
    clip = dataclasses.replace(honest.step, sensitivity=1e9)
    plans = {
        "sigma-0": dataclasses.replace(honest, step=no_noise),
        "steps-10000": dataclasses.replace(honest, steps=10_000),
        "clip-1e9": dataclasses.replace(honest, step=clip),
    }
    for name, plan in plans.items():
        yield f"{name} plan", messages.PLAN, dataclasses.replace(of(plan, name), arrays={}), own
        yield f"{name} train", messages.TRAIN, of(plan, name), own
    other = dataclasses.replace(of(honest, "base"), model_sha256="ab" * 32)
    yield "another base train", messages.TRAIN, other, own
    with tempfile.TemporaryDirectory() as scratch:
        stranger = SigningKey.load_or_create(Path(scratch) / "key.pem")
        yield "stranger train", messages.TRAIN, of(honest, "stranger"), stranger
    # Last: the courier of this run asks for more by itself; see client_app.py.
    yield "raids", messages.JOIN, dataclasses.replace(base, plan=None, arrays={}), own
