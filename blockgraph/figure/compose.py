"""Pictures to scenes: one frame for all, each laid out in it."""

from collections.abc import Sequence

from blockgraph.figure.arrange import arrange
from blockgraph.figure.frame import frame
from blockgraph.figure.parts import Scene
from blockgraph.figure.picture import Picture
from blockgraph.figure.route import routes
from blockgraph.figure.scene import scene
from blockgraph.figure.tracks import heights, tracks


def compose(drawn: Sequence[Picture], others: Sequence[Picture] = ()) -> list[Scene]:
    """The scenes of pictures in a frame that also holds the others, so that what they share is in one place."""
    pictures = [*drawn, *others]
    common = frame(pictures)
    plan = arrange(common)
    routed = [routes(common, plan, picture) for picture in pictures]
    laid = [(each, tracks(each)) for each in routed]
    levels = heights(common, pictures, laid)
    return [
        scene(common, plan, levels, picture, each, used) for picture, (each, used) in zip(drawn, laid, strict=False)
    ]
