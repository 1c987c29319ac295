"""What server and clients agree on: configuration, plan, messages, model, scoring, errors."""
