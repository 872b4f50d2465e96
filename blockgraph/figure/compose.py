"""Pictures to scenes: one frame for all, each laid out in it."""

from collections.abc import Sequence

from blockgraph.figure.arrange import arrange
from blockgraph.figure.frame import frame
from blockgraph.figure.picture import Picture
from blockgraph.figure.route import Router
from blockgraph.figure.scene import Scene, scene
from blockgraph.figure.tracks import heights, tracks


def compose(drawn: Sequence[Picture], others: Sequence[Picture] = ()) -> list[Scene]:
    """The scenes of pictures in a frame that also holds the others, so that what they share is in one place."""
    pictures = [*drawn, *others]
    common = frame(pictures)
    plan = arrange(common)
    routed = [Router(common, plan, picture).routes() for picture in pictures]
    laid = [(routes, tracks(routes)) for routes in routed]
    levels = heights(common, pictures, laid)
    return [
        scene(common, plan, levels, picture, routes, used) for picture, (routes, used) in zip(drawn, laid, strict=False)
    ]
