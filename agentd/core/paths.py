"""What can be said of a path without looking at the disk."""


def absolute(path: str, *, cwd: str | None, home: str | None, workspace: str) -> str:
    """The sandbox path that ``path`` means: absolute as it is; relative from the sandbox's cwd where one is set, else
    from the user's home where there is a user, else from the workspace (wire contract, section 1.9)."""
    if path.startswith("/"):
        return tidy(path)
    return tidy(f"{cwd or home or workspace}/{path}")


def tidy(path: str) -> str:
    """``path`` without empty and ``.`` components and without a trailing slash. ``..`` stays: after a link only the
    file system knows where it leads."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
