"""The command line of the service; `__main__.py` runs it."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from . import __version__
from .app import run
from .errors import ConfigurationError
from .generate import tasks
from .logs import configure
from .settings import Settings
from .stores import open_store
from .workers import run_workers

EXIT_CONFIGURATION = 2


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """One flag and one environment variable for each setting."""
    for name, field in reversed(Settings.model_fields.items()):
        default = field.get_default()
        many = isinstance(default, tuple)
        command = click.option(
            "--" + name.replace("_", "-"),
            name,
            envvar="WEIR_" + name.upper(),
            multiple=many,
            default=None,
            metavar="VALUE",
            help=f"{field.description}  [default: {'none' if many else default}]",
        )(command)
    return command


def _settings(given: dict[str, Any]) -> Settings:
    values = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        return Settings.model_validate(values)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise ConfigurationError(
            f"{flag} {first['input']!r}: {first['msg']}",
            hint="`python -m service --help` lists every flag, its unit and its default",
        ) from None


class _Commands(click.Group):
    """Does not quote an address that was taken for a command: there may be a password in it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if "://" in args[0]:
            raise ConfigurationError(
                "an address stands where a command could", hint="use --database ADDRESS"
            )
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands, invoke_without_command=True, context_settings={"max_content_width": 100}
)
@click.version_option(__version__, package_name="tableweir")
@_settings_options
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Serve tasks as CSV and NDJSON, to any number of slow clients, in constant memory.

    Each flag is also an environment variable: --max-streams is WEIR_MAX_STREAMS.
    """
    if context.invoked_subcommand is None:
        settings = _settings(given)
        configure(settings.log_format)
        asyncio.run(run(settings) if settings.workers == 1 else run_workers(settings))


@main.command()
@click.option("--rows", type=click.IntRange(1, 1_000_000_000), default=1_000_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="same seed, same tasks")
@click.option("--database", default=None, help="where the tasks go")
@click.pass_context
def generate(context: click.Context, /, rows: int, seed: int, database: str | None) -> None:
    """Append made-up tasks to a database, the same ones for the same seed."""
    assert context.parent is not None
    given = context.parent.params
    asyncio.run(
        _generate(rows, seed, _settings(given | ({"database": database} if database else {})))
    )


async def _generate(rows: int, seed: int, settings: Settings) -> None:
    configure(settings.log_format)
    store = await open_store(settings)
    try:
        with click.progressbar(
            tasks(rows, seed),
            length=rows,
            label="generating tasks",
            file=sys.stderr,
            update_min_steps=max(1, rows // 200),
        ) as progress:
            await store.fill(progress)
    finally:
        await store.close()


def cli() -> None:
    """Run the command; what a user can mend is one line and a hint, never a traceback."""
    try:
        main(prog_name=Path(sys.argv[0]).name if not sys.argv[0].endswith(".py") else "service")
    except ConfigurationError as error:
        click.echo(f"weir: {error.message}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        sys.exit(EXIT_CONFIGURATION)
