"""The gates of past forward passes, kept for whoever wants to see what the policy did.

The names of the methods are those of X-LoRA's log of its scalings. Shape suffixes: B batch, D decisions.
"""

from torch import Tensor


class PolicyLog:
    """The gates [B, D] of the latest pass, and while it is enabled, a copy on the CPU of those of every pass."""

    def __init__(self) -> None:
        self.enabled = False
        self.latest: Tensor | None = None
        self.entries: list[Tensor] = []

    def record(self, gates_BD: Tensor) -> None:
        """Take the gates of one forward pass."""
        self.latest = gates_BD.detach()
        if self.enabled:
            self.entries.append(self.latest.to("cpu", copy=True))


class LogsPolicy:
    """The methods of a model that records its gates in `log`."""

    log: PolicyLog

    def enable_policy_logging(self) -> None:
        """Keep the gates of every forward pass from now on, forced ones too."""
        self.log.enabled = True

    def disable_policy_logging(self) -> None:
        """Keep no more gates; those kept stay until `clear_policy_log`."""
        self.log.enabled = False

    def clear_policy_log(self) -> None:
        """Forget the gates kept so far."""
        self.log.entries.clear()

    def get_policy_log(self) -> list[Tensor]:
        """The gates kept, one [B, D] tensor on the CPU per forward pass."""
        return list(self.log.entries)

    def get_latest_gates(self) -> Tensor | None:
        """The gates [B, D] of the latest forward pass, logged or not; None before the first."""
        return self.log.latest
