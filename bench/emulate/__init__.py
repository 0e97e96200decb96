"""What a packet costs, counted: runs the program that the kernel runs, as its verifier left it, and looks on."""

from emulate.dump import HiddenAddresses, Line, Translated, names_shown, translated
from emulate.helpers import jiffies
from emulate.memory import Fault
from emulate.run import Cost, emulated

__all__ = ["Cost", "Fault", "HiddenAddresses", "Line", "Translated", "emulated", "jiffies", "names_shown", "translated"]
