"""The router that every resource starts from: strict bodies, documented problems, stable operation ids."""

from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute

from app.api.problems import MEDIA_TYPE
from app.api.strict_json import StrictRoute

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem, by its code",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
    }
}


def operation_id(route: APIRoute) -> str:
    """The name of the endpoint function, which clients are generated from: it must not change."""
    return route.name


def new_router(prefix: str, tag: str, *, raw_bodies: bool = False) -> APIRouter:
    """A router; with ``raw_bodies`` its endpoints read what they are sent themselves."""
    return APIRouter(
        prefix=prefix,
        tags=[tag],
        route_class=APIRoute if raw_bodies else StrictRoute,
        responses=PROBLEM_RESPONSES,
        generate_unique_id_function=operation_id,
    )
