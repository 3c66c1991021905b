"""The OpenAPI document: what FastAPI finds out, with problems and ways in that it cannot know."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.api.bodies import Fault, ProblemBody
from app.api.problems import KINDS
from app.bus.sessions import COOKIE

_PUBLIC = ("/livez", "/readyz", "/api/health", "/api/v1/auth/login", "/api/v1/auth/logout", "/api/v1/auth/register")


def describe(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes, description=app.description)
        components = document.setdefault("components", {})
        _add_schemas(components.setdefault("schemas", {}))
        components["securitySchemes"] = {
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE},
            "token": {"type": "http", "scheme": "bearer"},
        }
        _require_sign_in(document["paths"])
        app.openapi_schema = document
    return app.openapi_schema


def _add_schemas(schemas: dict[str, Any]) -> None:
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    template = "#/components/schemas/{model}"
    problem = ProblemBody.model_json_schema(ref_template=template)
    problem.pop("$defs", None)
    problem["properties"]["code"] = {"type": "string", "enum": sorted(KINDS)}
    schemas["ProblemBody"] = problem
    schemas["Fault"] = Fault.model_json_schema(ref_template=template)


def _require_sign_in(paths: dict[str, Any]) -> None:
    for path, operations in paths.items():
        for operation in operations.values():
            operation["security"] = [] if path in _PUBLIC else [{"session": []}, {"token": []}]
