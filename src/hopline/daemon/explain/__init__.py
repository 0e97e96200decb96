"""What would be done with a packet, and why: asked of the shipped program, by a load of it that writes nothing.

A question's way: `explainer` chooses the interface, `runs` runs the frame, `notes` finds each step's record in what
came of it, `steps` says them in words (a step that has none is shown field by field), `then` says what the kernel
does with a packet that is passed. `scene` is what they share, `words` the words; `balanced` has the steps of decap and
balance, `served` the names behind their numbers, `frames` decodes what came in and what leaves.
"""

from hopline.daemon.explain.explainer import Explainer
from hopline.daemon.explain.served import ServedHost

__all__ = ["Explainer", "ServedHost"]
