"""What the system said, found in errors that others wrap several times and print over many lines."""

import errno
import os


def reason(error: BaseException) -> str:
    """Why something failed, in a line: the system's own words if they are somewhere in the error.

    Example:
        >>> from lstm_jax.training.system_errors import reason
        >>> reason(ValueError("Error writing 'a/b/c' of 'd': [OS error 28: No space left on device]"))
        'No space left on device'
    """
    seen: list[BaseException] = []
    next_one: BaseException | None = error
    while next_one is not None and next_one not in seen:
        seen.append(next_one)
        next_one = next_one.__cause__ or next_one.__context__
    texts = [" ".join(str(one).split()) for one in seen]
    for number in SYSTEM:
        if any(os.strerror(number) in text for text in texts):
            return os.strerror(number)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (texts[0] or type(error).__name__).rstrip(".")


SYSTEM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENOMEM,
)
"""What the system says of a disk that takes no more, and of files that may not be written."""
