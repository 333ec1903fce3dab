"""PostgreSQL as it must not be: one clear line, a hint, exit code 2, and never a password."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import quote, urlsplit

import aiohttp
import pytest

from service.databases import open_database
from service.engines.postgres import server as postgres_server
from service.errors import ConfigurationError
from service.settings import Settings
from tests.conftest import AUTHORIZATION, Process, StartProcess, until
from tests.databases import PostgreSQL
from tests.postgres import Cluster, make_cluster
from tests.test_command_line import refused, weir

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
USER, PASSWORD = "clerk", "s3cr@t/k3y"
IN_ADDRESS = f"{USER}:{quote(PASSWORD, safe='')}"
SECRETS = ("s3cr", "k3y")  # the same in an address
NOT_UNDERSTOOD = {
    f"postgresql://{IN_ADDRESS}@127.0.0.1:port/x": "port",
    f"postgresql://{IN_ADDRESS}@127.0.0.1:99999/x": "99999",
    f"postgresql://{IN_ADDRESS}@[::1/x": "[::1",
    f"postgresql://{IN_ADDRESS}@127.0.0.1/x?sslmode=nonsense": "sslmode",
    f"postgresql://127.0.0.1/x?user={USER}&password={PASSWORD}&sslmode=none": "sslmode",
    f"postgresql://{USER}:{PASSWORD}@127.0.0.1:1/x": "127.0.0.1:1/x",
    f"postgresql://{USER}:?{PASSWORD}@127.0.0.1:1/x": "127.0.0.1:1/x",
    f"postgres:/{IN_ADDRESS}@127.0.0.1/x": "127.0.0.1",
    f"mysql://{IN_ADDRESS}@127.0.0.1/x": "mysql",
}
OF_OTHERS = {
    "task": "CREATE TABLE task (id integer, name text)",
    "clock": "CREATE TABLE clock (hour integer)",
    "tombstone": "CREATE VIEW tombstone AS SELECT 7 AS seq",
}
OF_ANOTHER_PROGRAM = {
    "public.orders": "CREATE TABLE orders (id integer)",
    "sales.orders": "CREATE SCHEMA sales; CREATE TABLE sales.orders (id integer)",
    "public.recent": "CREATE VIEW recent AS SELECT 7 AS id",
    "public.totals": "CREATE MATERIALIZED VIEW totals AS SELECT 7 AS id",
    "public.parted": "CREATE TABLE parted (id integer) PARTITION BY RANGE (id)",
    "tasks.task": "CREATE SCHEMA tasks; CREATE TABLE tasks.task (id integer)",
}
OF_AN_EXTENSION = (
    "CREATE SCHEMA sales; CREATE TABLE spatial_ref_sys (id integer);"
    " ALTER EXTENSION plpgsql ADD TABLE spatial_ref_sys"
)
"""What PostGIS leaves in a database that nobody has used yet."""
SPOILT = {
    "ALTER TABLE task DROP COLUMN priority": "table 'task' has no column 'priority'",
    "ALTER TABLE tombstone DROP COLUMN id": "table 'tombstone' has no column 'id'",
    "DROP TABLE tombstone": "table 'tombstone' has no column 'id'",
    "DELETE FROM clock": "table 'clock' is empty",
    "DELETE FROM weir_schema": "table 'weir_schema' is empty",
    "UPDATE weir_schema SET version = 99": "schema version 99, newer than 1",
}
RIGHTS = {
    "task": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "tombstone": ("SELECT", "INSERT"),
    "clock": ("SELECT", "UPDATE"),
    "weir_schema": ("SELECT",),
}


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    """A server with a user who owns nothing; its password has to be encoded in an address."""
    made = make_cluster()
    made.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    yield made
    made.remove()


@pytest.fixture
def empty(server: Cluster) -> Iterator[PostgreSQL]:
    """An empty database that is not the user's."""
    with server.database() as url:
        yield PostgreSQL(url, lambda: None)


@pytest.fixture
async def made(empty: PostgreSQL) -> PostgreSQL:
    """A database with our tables, on which the user may do everything."""
    await empty.fill([])
    await empty.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {USER}")
    await empty.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {USER}")
    return empty


def as_user(url: str, who: str = IN_ADDRESS) -> str:
    """The same address with a user and a password of one's own."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{who}@{parts.netloc.rpartition('@')[2]}").geturl()


def shows_no_password(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text]


async def refusal(*arguments: str, names: str) -> str:
    """What a user reads who starts it so: a line that names the thing, and a hint."""
    done = await asyncio.to_thread(weir, *arguments)
    refused(done, names)
    shows_no_password(done.stdout + done.stderr)
    return done.stderr


async def complaint(address: str) -> str:
    """The same without a process, as there are many of them."""
    with pytest.raises(ConfigurationError) as caught:
        await open_database(Settings(database=address))
    said, hint = caught.value.message, caught.value.hint
    assert hint
    assert "\n" not in said + hint
    shows_no_password(said + hint)
    return f"{said}\n{hint}"


async def only_read(address: str) -> None:
    """Open a database that is not ours: it has no tasks, and what it has may be asked for."""
    database = await open_database(Settings(database=address))
    try:
        assert database.tasks is None
        await database.engine.relations()
    finally:
        await database.close()


@pytest.mark.parametrize(("address", "named"), NOT_UNDERSTOOD.items())
async def test_an_address_that_is_not_understood_is_named(address: str, named: str) -> None:
    """An address with a fault in it is shown without its password, however it is wrong."""
    assert named in await complaint(address)


async def test_an_address_without_its_flag_is_not_quoted() -> None:
    """Who forgets the flag is told so, and does not find a password in the answer."""
    await refusal(f"postgresql://{IN_ADDRESS}@127.0.0.1/x", names="an address stands where")


@pytest.mark.parametrize("variable", [False, True])
async def test_a_wrong_password_is_refused(
    server: Cluster, monkeypatch: pytest.MonkeyPatch, variable: bool
) -> None:
    """A wrong password is told, and how to write it; from the environment just the same."""
    address = as_user(server.url(), f"weir:{quote(PASSWORD, safe='')}")
    names = f"127.0.0.1:{server.port}/postgres: password authentication failed"
    if variable:
        monkeypatch.setenv("WEIR_DATABASE", address)
    assert "%40" in await refusal(*(() if variable else ("--database", address)), names=names)


async def test_a_wrong_password_of_a_replica_is_refused(made: PostgreSQL) -> None:
    """A replica that cannot be logged in to is wrong, not away: it is refused at start, too."""
    flags = "--database", made.url, "--read-database", as_user(made.url, IN_ADDRESS + "x")
    await refusal(*flags, names="password authentication failed")


async def test_what_the_server_does_not_know_is_refused(server: Cluster) -> None:
    """A user, a database and a parameter that there are not are named in the server's words."""
    url = as_user(server.url())
    assert 'user "nobody"' in await complaint(as_user(url, "nobody:" + quote(PASSWORD, safe="")))
    assert 'parameter "colour"' in await complaint(url + "?colour=blue")
    assert "cannot be reached" in await complaint(url + "?target_session_attrs=standby")
    url = url.replace("/postgres", "/nowhere")
    said = await refusal("--database", url, names='database "nowhere" does not exist')
    assert "CREATE DATABASE" in said


@pytest.mark.parametrize("command", [(), ("generate", "--rows=5")])
async def test_a_server_that_is_not_there_is_refused(command: tuple[str, ...]) -> None:
    """Where nobody listens, or nobody knows of such a host, the address is named."""
    with socket.socket() as deaf:  # has the port, so that nobody else listens there
        deaf.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{deaf.getsockname()[1]}/x"
        address = f"postgresql://{IN_ADDRESS}@{place}"
        await refusal(*command, "--database", address, names=f"{place} cannot be reached")
    address = f"postgresql://{IN_ADDRESS}@nonexistent.invalid/x"
    assert "nonexistent.invalid:5432/x cannot be reached" in await complaint(address)


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[str]:
    """The address of something that answers connections in its own way."""

    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await answer(reader, writer)
        await reader.read()  # until the service has gone

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as other:
        yield f"postgresql://{IN_ADDRESS}@127.0.0.1:{other.sockets[0].getsockname()[1]}/x"
    for writer in writers:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def be_mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a server does that is overloaded or frozen."""


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


async def be_old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As PostgreSQL 13 does: no TLS, any password, then ready for a query."""

    def message(kind: bytes, payload: bytes) -> bytes:
        return kind + (len(payload) + 4).to_bytes(4, "big") + payload

    parameters = message(b"S", b"server_version\x0013.22\0")
    for reply in (b"N", message(b"R", bytes(4)) + parameters + message(b"Z", b"I")):
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        writer.write(reply)


@pytest.mark.parametrize(
    ("answer", "named"), [(speak_http, "cannot be reached"), (be_old, "is PostgreSQL 13; 14 or")]
)
async def test_a_server_that_will_not_do_is_refused(answer: Answer, named: str) -> None:
    """A server of another protocol is not reached; one too old is told with both versions."""
    async with listening(answer) as address:
        await refusal("--database", address, names=named)


async def test_a_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that accepts and says nothing is given up after the time for a connection."""
    monkeypatch.setattr(postgres_server, "CONNECT_SECONDS", 0.2)
    async with listening(be_mute) as address, asyncio.timeout(10):
        assert "cannot be reached: no answer within 0.2 seconds" in await complaint(address)


async def test_a_replica_is_refused_as_primary(server: Cluster) -> None:
    """A replica named with --database is told from a primary, with the flag that it is for."""
    server.execute("CREATE DATABASE ours")
    await (await open_database(Settings(database=server.url("ours")))).close()
    address = as_user(server.replica().url("ours"))
    assert "--read-database" in await refusal("--database", address, names="is a replica")


async def test_another_encoding_is_refused(server: Cluster) -> None:
    """A database that cannot hold every title is refused, with the way to make one that can."""
    server.execute("CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0")
    said = await complaint(as_user(server.url("latin")))
    assert "not encoded in UTF-8" in said
    assert "--encoding UTF8" in said


async def test_without_rights_on_the_schema_it_is_refused(empty: PostgreSQL) -> None:
    """Where the tables cannot be made, the right that lacks is in the hint."""
    said = await refusal("--database", as_user(empty.url), names="permission denied for schema")
    assert "GRANT CREATE ON SCHEMA public" in said
    await empty.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    said = await complaint(as_user(empty.url))
    assert "may use no schema" in said
    assert "GRANT USAGE, CREATE ON SCHEMA public" in said


async def test_without_a_right_on_a_table_it_is_refused(made: PostgreSQL) -> None:
    """Each right that is needed is looked for at start, not found to lack at the first write."""
    for table, rights in RIGHTS.items():
        for right in rights:
            await made.execute(f"REVOKE {right} ON {table} FROM {USER}")
            said = await complaint(as_user(made.url))
            assert f"may not {right} in the table '{table}'" in said
            assert "GRANT SELECT, INSERT, UPDATE, DELETE ON" in said
            await made.execute(f"GRANT {right} ON {table} TO {USER}")


async def test_the_hints_about_rights_are_enough(made: PostgreSQL) -> None:
    """Who does what the hints say, from no right at all, gets a service that writes."""
    await made.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {USER}")
    await made.execute(f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {USER}")
    for hinted in ("ON task, tombstone, clock, weir_schema", "ON ALL SEQUENCES"):
        hint = (await complaint(as_user(made.url))).splitlines()[1]
        assert hinted in hint
        await made.execute(hint.replace("its user", USER))
    done = await asyncio.to_thread(weir, "generate", "--rows=5", WEIR_DATABASE=as_user(made.url))
    assert done.returncode == 0, done.stderr
    assert await made.execute("SELECT count(*) FROM task") == [(5,)]


@pytest.mark.parametrize("name", OF_OTHERS)
async def test_tables_of_our_names_are_only_read(empty: PostgreSQL, name: str) -> None:
    """A table of one of our names that we did not make is left alone; no other one is made."""
    await empty.execute(OF_OTHERS[name])
    await empty.execute(f"GRANT CREATE ON SCHEMA public TO {USER}")
    await only_read(as_user(empty.url))
    found = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert await empty.execute(found) == [(name,)]


async def one_by_one(database: PostgreSQL, statements: str) -> None:
    for statement in statements.split("; "):
        await database.execute(statement)


@pytest.mark.parametrize("name", OF_ANOTHER_PROGRAM)
async def test_a_database_of_another_program_is_only_read(empty: PostgreSQL, name: str) -> None:
    """A database with tables or views of others, in whatever schema, gets none of ours."""
    await one_by_one(empty, OF_ANOTHER_PROGRAM[name])
    found = "SELECT count(*) FROM pg_class"
    before = await empty.execute(found)
    await only_read(empty.url)
    assert await empty.execute(found) == before


async def test_what_an_extension_brings_is_no_program_s(empty: PostgreSQL) -> None:
    """A database that has nothing but an extension's tables and views is taken for a new one."""
    await one_by_one(empty, OF_AN_EXTENSION)
    await empty.fill([])
    assert await empty.execute("SELECT seq FROM clock") == [(0,)]


async def test_others_may_add_their_tables_to_ours(made: PostgreSQL) -> None:
    """A database that has our tables is ours, whatever else comes into it later."""
    await one_by_one(made, "; ".join(OF_ANOTHER_PROGRAM.values()))
    await made.fill([])


@pytest.mark.parametrize(("done", "said"), SPOILT.items())
async def test_tables_that_were_changed_are_refused(made: PostgreSQL, done: str, said: str) -> None:
    """Tables that somebody has changed, emptied or brought further are refused by name."""
    await made.execute(done)
    assert said in await complaint(as_user(made.url))


async def answers(process: Process) -> tuple[set[int], str]:
    """The statuses of the routes that tell of the service, and all that they say."""
    found, texts = set(), ""
    async with aiohttp.ClientSession(headers=AUTHORIZATION) as client:
        for path in ("/metrics", "/streams", "/openapi.json", "/readyz", "/tasks"):
            async with client.get(process.url + path) as response:
                found.add(response.status)
                texts += str(response.headers) + await response.text()
    return found, texts


async def test_a_running_service_never_shows_the_password(
    server: Cluster, made: PostgreSQL, spawn: StartProcess
) -> None:
    """Neither log nor answers have the password, nor who has it, whether the server is there."""
    database = PostgreSQL(as_user(made.url), lambda: None)
    flags = ("--workers", "2", "--reconnect-timeout", "0.5", "--read-database", database.url)
    process = await asyncio.to_thread(spawn, *flags, database=database)
    await until(lambda: "listening" in process.log)  # both do: one is enough for its port
    found, texts = await answers(process)
    assert found == {200}
    await asyncio.to_thread(server.stop, "immediate")
    try:
        await until(lambda: process.log.count("server left out") >= 4)  # two, in two workers
        found, more = await answers(process)
    finally:
        await asyncio.to_thread(server.start)
    assert found == {200, 503}
    await until(lambda: process.log.count("server is back") >= 4)
    assert process.stop() == 0
    shows_no_password(texts + more + process.log)
    assert USER not in texts + more + process.log
