"""`make server`: MLflow's server for a team, with its database, files and users.

On loopback it asks for no login. Elsewhere it does, with permissions for each experiment
(https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth).
"""

import argparse
import ipaddress
import os
import secrets
import sys
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError

from thaw import files
from thaw.errors import ThawError, one_line, redact
from thaw.tracking import sqlite
from thaw.workspace import DEFAULT, Workspace

DATABASE, PASSWORD = "MLFLOW_BACKEND_STORE_URI", "MLFLOW_AUTH_ADMIN_PASSWORD"


def main() -> None:
    """Create the database if missing, print the address, and become `mlflow server`."""
    parser = argparse.ArgumentParser(prog="make server", description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=DEFAULT / "server", help="where it keeps its files")
    parser.add_argument("--artifacts", help="where files go: a folder, s3://BUCKET/PATH, gs://... (FOLDER/artifacts)")
    parser.add_argument("--host", default="127.0.0.1", help="the address that it listens at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=5000)
    parser.add_argument("--names", help="comma-separated host names that clients use, without a port")
    parser.add_argument("--workers", type=int, default=2, help="processes that answer (2)")
    parser.add_argument("--users", action="store_true", help="require login on loopback as well, e.g. behind a proxy")
    parser.epilog = f"The database: its address, postgresql://USER:PASSWORD@HOST/NAME, in {DATABASE}; else SQLite."
    arguments = parser.parse_args()
    try:
        command = serve(arguments, os.environ)
    except (ThawError, OSError) as error:
        sys.exit(str(error))
    print(f"{redact(os.environ[DATABASE])} on http://{arguments.host}:{arguments.port}", flush=True)
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", *command], os.environ)


def serve(arguments: argparse.Namespace, environment: MutableMapping[str, str]) -> list[str]:
    """The words after `mlflow`; passwords go into the environment, which other users cannot see.

    Raises:
        ThawError: the database refuses, or there is no password for the first user.
    """
    os.umask(0o077)  # its files are for its own user alone
    arguments.folder.mkdir(parents=True, exist_ok=True)
    database = environment.get(DATABASE) or sqlite.address(Workspace(arguments.folder).database)
    try:
        create_engine(database).connect().close()
    except ImportError as error:
        extra = "pip install -e '.[server]'" if database.startswith("postgresql") else f"pip install {error.name}"
        raise ThawError(f"{DATABASE} needs {error.name}; give {extra}") from error
    except SQLAlchemyError as error:
        raise ThawError(
            f"{DATABASE}={redact(database)} cannot be opened ({one_line(error, 200)}); give "
            "postgresql://USER:PASSWORD@HOST/NAME or sqlite:////FILE"
        ) from error
    environment[DATABASE] = database
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # two processes instead of fourteen
    artifacts = arguments.artifacts or str(Workspace(arguments.folder).artifacts.resolve())
    where = ["--host", arguments.host, "--port", str(arguments.port), "--workers", str(arguments.workers)]
    names = _names(arguments.names.split(",")) if arguments.names else []
    asked = arguments.users or not _is_loopback(arguments.host)
    if asked:
        _require_login(arguments.folder, database, environment)
    app = ["--app-name", "basic-auth"] if asked else []
    return ["server", "--serve-artifacts", "--artifacts-destination", artifacts, *where, *names, *app]


def _names(given: list[str]) -> list[str]:
    """Options that let browsers use the server under these names at any port."""
    hosts = [each for name in ("localhost", "127.0.0.1", *given) for each in (name, f"{name}:*")]
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    return ["--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_login(folder: Path, database: str, environment: MutableMapping[str, str]) -> None:
    """Set up MLflow's authentication; users see only experiments that they are given permission for."""
    if not find_spec("flask_wtf"):
        raise ThawError("A server for others needs MLflow's authentication: pip install -e '.[server]'")
    users, secret = folder / "users.ini", folder / "secret"
    if not users.exists() and len(environment.get(PASSWORD, "")) < 12:
        raise ThawError(
            f"A server beyond loopback requires login; set the password of its first user, admin, in {PASSWORD} "
            "(12 characters or more)"
        )
    if not secret.exists():
        files.write_text(secret, secrets.token_hex(32))
    own = database if not database.startswith("sqlite") else sqlite.address(folder / "users.db")
    settings = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": own.replace("%", "%%"),
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # a password is hashed once a minute, not for every request
    }
    files.write_text(users, "[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(users.resolve())
    environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = secret.read_text()


if __name__ == "__main__":
    main()
