"""What the emulator reports."""


class Fault(RuntimeError):
    """A kernel did what a GPU would not forgive: the text names the kernel, its source line and the instruction."""


class UnknownInstructionError(Fault):
    """The emulator does not know an instruction of the kernel, so it cannot judge the kernel."""
