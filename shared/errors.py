"""The one exception tree: every error a person can meet is a sentence with a place and a cure."""


class TacitError(Exception):
    """Base of all errors that tacit raises on purpose; the CLI prints the sentence and exits 2."""


class ConfigError(TacitError):
    """A configuration key or value that cannot be used."""


class DataError(TacitError):
    """Input data that cannot be read as interactions and items; names file, row and column."""


class AssetError(TacitError):
    """A base model or data package that is missing or whose bytes are not the expected ones."""


class PrivacyError(TacitError):
    """A plan, a release or a budget that would break or exceed the declared guarantee."""


class RefusedError(PrivacyError):
    """A request that an organisation's policy does not allow; the sentence names every rule."""


class ModelError(TacitError):
    """A base model, an adapter or a gradient path that failed its check."""


class FederationError(TacitError):
    """A round that could not be carried out: no replies, a malformed update, a stale message."""


class UnreachableError(FederationError):
    """An agent that is not there or busy; asking again may help, and costs nothing."""


class RunError(TacitError):
    """A run folder that is missing, incomplete or of another configuration."""
