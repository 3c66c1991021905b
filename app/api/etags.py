"""ETags of what has a version, and changes that hold only for the version they were based on."""

from typing import Annotated

from fastapi import Header

from app.api.problems import Problem

IfMatch = Annotated[str | None, Header(max_length=200, description="The ETag that the change is based on.")]


def etag(version: int) -> str:
    """The ETag of a version."""
    return f'"{version}"'


def require_if_match(if_match: str | None) -> str:
    """What was sent as If-Match. Raises Problem where nothing was."""
    if if_match is None:
        raise Problem("if_match_required", "Send the ETag of what you read as If-Match.")
    return if_match


def require_version(if_match: str, version: int, what: str) -> None:
    """Refuse a change that is based on another version. Raises Problem."""
    tags = {tag.strip() for tag in if_match.split(",")}
    if "*" not in tags and etag(version) not in tags:
        raise Problem("version_mismatch", f"The {what} has changed. Read it again.", headers={"ETag": etag(version)})
