"""The order of the blocks in Table 3 of 2410.16682, claim by claim, against what the study measured."""

from itertools import combinations

from runners.lab.critical import Crossing, crossings, ratio, told
from runners.lab.intervals import geometric
from runners.lab.lab import Lab
from runners.lab.section import Section, Table
from runners.lab.sections.table3 import MARGINS
from runners.lab.words import NONE

TITLE = "The paper's order of the blocks"
PAPER = {  # highest learning rate that converged, Table 3
    "baseline": 6e-3,
    "soft_temp": 8e-3,
    "soft_clip": 8e-3,
    "sigma_reparam": 20e-3,
    "layer_scale": 20e-3,
    "soft_cap": 40e-3,
    "qk_norm": 40e-3,
    "qk_fc_norm": 40e-3,
    "qkv_norm": 60e-3,
    "qk_norm_cap": 60e-3,
}
CLAIMS = (  # lower block, higher block: two steps of the paper's grid apart, or the top two of it
    ("baseline", "soft_temp"),
    ("baseline", "soft_clip"),
    ("soft_temp", "soft_cap"),
    ("soft_clip", "soft_cap"),
    ("soft_temp", "qk_norm"),
    ("soft_clip", "qk_norm"),
    ("soft_cap", "qkv_norm"),
    ("qk_norm", "qkv_norm"),
    ("soft_cap", "qk_norm_cap"),
    ("qk_norm", "qk_norm_cap"),
)
HOW = (
    "A grid of learning rates sees only whole steps. Here the critical rate of a seed is read on the line between two "
    "rates, losses against log rate: where the final validation loss lies so far above the lowest at a lower rate. "
    "Means are geometric, over seeds, ratios paired by seed, with 95 % t intervals of the logarithms. A claim holds "
    "where the whole interval is above 1, fails where all of it is below 1, and is open where 1 lies inside or a bound "
    "leaves it so."
)
Rates = dict[str, dict[int, Crossing]]  # of each block and seed


def section(lab: Lab) -> Section:
    """Critical rates of the paper's blocks at several margins, and each claim with its ratio."""
    size = lab.sizes[-1]
    blocks = [arm for arm in lab.arms if arm in PAPER and lab.of(arm, size)]
    claims = [claim for claim in CLAIMS if set(claim) <= set(blocks)]
    if len(lab.rates) < 2 or not claims:
        return Section(
            TITLE, missing="blocks of the paper's Table 3 that it tells apart, at two learning rates or more"
        )
    found = {margin: {block: crossings(lab, block, size, margin) for block in blocks} for margin in MARGINS}
    return Section(TITLE, (HOW, _shares(found)), (_rates(found), _claims(found, claims)))


def agreement(rates: Rates) -> tuple[int, int]:
    """Pairs of blocks that stand in the paper's order by their mean, of all pairs that the paper tells apart."""
    means = {block: geometric(each.rate for each in seeds.values()).mean for block, seeds in rates.items()}
    pairs = [(a, b) for a, b in combinations(means, 2) if PAPER[a] != PAPER[b]]
    return sum((means[a] < means[b]) == (PAPER[a] < PAPER[b]) for a, b in pairs), len(pairs)


def _shares(found: dict[float, Rates]) -> str:
    words = (f"{'{} of {}'.format(*agreement(rates))} at {margin:g} nats" for margin, rates in found.items())
    return f"Pairs of blocks in the paper's order by their means, of those that it tells apart: {', '.join(words)}."


def _rates(found: dict[float, Rates]) -> Table:
    blocks = next(iter(found.values()))
    rows = (
        (block, f"{PAPER[block]:g}", *(told(rates[block]) if rates[block] else NONE for rates in found.values()))
        for block in sorted(blocks, key=PAPER.__getitem__)
    )
    headings = ("block", "paper's highest", *(f"{margin:g} nats above" for margin in found))
    return Table("Critical learning rate of each block, in the paper's order.", headings, tuple(rows))


def _claims(found: dict[float, Rates], claims: list[tuple[str, str]]) -> Table:
    rows = []
    for low, high in claims:
        cells = [_verdict(rates[high], rates[low]) for rates in found.values()]
        rows.append((f"{high} over {low}", f"{PAPER[high] / PAPER[low]:.3g}", *cells))
    headings = ("ratio of critical rates", "paper", *(f"{margin:g} nats above" for margin in found))
    return Table("The paper's claims: how many times higher the one block may go.", headings, tuple(rows))


def _verdict(high: dict[int, Crossing], low: dict[int, Crossing]) -> str:
    if not high.keys() & low.keys():
        return NONE
    found = ratio(high, low)
    return f"{found}: {'holds' if found.higher else 'fails' if found.lower else 'open'}"
