"""The federation operator's commands: certificates, SuperLink, registration, runs, status."""
