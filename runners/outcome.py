"""How a run ends: the state in its `status.json`, a sentence, and an exit code."""

import math
from dataclasses import dataclass, field
from typing import Any

BAD_INPUT, TAKEN, DISK, STOPPED, LOST = 1, 65, 74, 75, 124
RULES = {"non_finite": 70, "loss_above": 71, "spike": 72}
CODES = f"""exit codes:
  0   the run is finished
  1   the run file, the spec, the data or the directory is at fault
  2   wrong usage
  {TAKEN}  another process is writing the directory; its number and host are told
  {RULES["non_finite"]}  diverged: a loss or a gradient norm was not finite
  {RULES["loss_above"]}  diverged: the loss stayed above the bound of train.diverged
  {RULES["spike"]}  diverged: as many spikes in a row as train.diverged.spike or train.on_fault allow
  {DISK}  the disk is full or cannot be written; the last good checkpoint stands
  {STOPPED}  stopped by Ctrl-C, SIGTERM or SIGUSR1; the same command goes on
  {LOST} another process of the run is lost or does not go on; the same command goes on from the last checkpoint
Under torchrun these are the codes of its processes; its own is 1 for all of them but 0, so ask status.json.
"""


@dataclass(frozen=True)
class Outcome:
    """State of a run whose last step was `step`: finished, diverged or stopped, with the facts that belong to it."""

    state: str
    step: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def code(self) -> int:
        """Exit code of the command."""
        return {"finished": 0, "stopped": STOPPED}.get(self.state) or RULES.get(self.facts.get("rule", ""), 0)

    def __str__(self) -> str:
        if self.state == "finished":
            return f"finished after step {self.step}: {held_out(self.facts)}"
        if self.state == "stopped":
            return f"stopped ({self.facts['reason']}); the same command goes on after step {self.step}"
        return f"diverged after step {self.step}: {self.facts['reason']}"


def held_out(facts: dict[str, float]) -> str:
    """What a validation found, in words; `facts` is what `validation` returned."""
    loss, bits = facts["val_loss"], facts["val_bits_per_byte"]
    return f"validation loss {loss:.4f}, perplexity {_perplexity(loss):,.2f}, {bits:.3f} bits per byte"


def validation(loss: float, bytes_per_token: float) -> dict[str, float]:
    """The held-out loss in nats per token, and in bits per byte, which compares across tokenizers."""
    return {"val_loss": loss, "val_bits_per_byte": loss / math.log(2) / bytes_per_token}


def _perplexity(loss: float) -> float:
    """exp(loss), infinite where floats end."""
    return math.exp(loss) if loss < 700 else math.inf
