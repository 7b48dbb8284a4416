"""A copy of what a registry has in SQLite or PostgreSQL, to be queried: models, metrics, lineage, aliases.

The storage is the truth: `refresh` reads what is new there, and the index may be deleted at any time. So a database of
another version of these tables is emptied and filled again, and nobody migrates anything. Needs the extra `registry`,
for PostgreSQL `postgres` too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from hybrid_llm.backends.models.registry.listing import OPERATORS, Filter, Listed, aliases_by_version
from hybrid_llm.backends.models.registry.records import About
from hybrid_llm.backends.models.registry.registry import ModelRegistry
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.secret import Secret

_VERSION: Final = 1
"""Of the tables: raised with each change of them."""
_ATTEMPTS: Final = 3
_KEYS: Final = ("registry", "name", "digest")


class RegistryIndex:
    """The index at *where*, such as `sqlite:///index.db` or `postgresql://HOST/DATABASE`; registries may share it.

    Raises:
        ConfigError: a library is missing, or the database cannot be used.
    """

    def __init__(self, where: str | Secret) -> None:
        try:
            import sqlalchemy
        except ImportError:
            raise ConfigError(f"an index needs sqlalchemy: {install_hint('registry')}") from None
        self._sql = sqlalchemy
        url = where if isinstance(where, str) else where.read("the URL of the index")
        try:
            self._engine = sqlalchemy.create_engine(_with_driver(url))
        except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError):
            raise ConfigError("an index is sqlite:///FILE or postgresql://USER@HOST/DATABASE") from None
        except ImportError as error:
            raise ConfigError(f"{error.name} is missing for this index: {install_hint('postgres')}") from None
        self._tables = _Tables(sqlalchemy)
        with self._transaction() as db:
            self._tables.prepare(db)

    def refresh(self, registry: ModelRegistry) -> tuple[int, int]:
        """Read what is new in *registry*, and forget what is gone there; returns how many versions of each.

        Raises:
            ConfigError: the database cannot be used.
            RegistryError: the registry cannot be used; the index stays as it was.
        """
        there = {(name, digest): published for name, digest, published in registry.all_versions()}
        for attempt in range(_ATTEMPTS):
            try:
                with self._transaction(conflicts=attempt < _ATTEMPTS - 1) as db:
                    return self._refresh(db, registry, there)
            except self._sql.exc.IntegrityError:  # another one refreshes it at the same time
                continue
        raise AssertionError("the last attempt returns or raises")

    def find(self, registry: ModelRegistry, wanted: Filter) -> list[Listed]:
        """What `listed` returns, as of the last refresh."""
        with self._transaction() as db:
            return [self._row(db, found) for found in db.execute(self._query(registry.url, wanted)).mappings()]

    def lineage(self, source: str) -> list[tuple[str, str, str]]:
        """Name, digest and role of the versions that were made from *source*: a name or a digest."""
        table = self._tables.lineage
        query = self._sql.select(table.c.name, table.c.digest, table.c.role).where(table.c.source == source)
        with self._transaction() as db:
            return sorted((found.name, found.digest, found.role) for found in db.execute(query))

    def close(self) -> None:
        """Close its connections."""
        self._engine.dispose()

    def _refresh(self, db: Any, registry: ModelRegistry, there: dict[tuple[str, str], float]) -> tuple[int, int]:
        versions = self._tables.versions
        query = self._sql.select(versions.c.name, versions.c.digest).where(versions.c.registry == registry.url)
        known = {(found.name, found.digest) for found in db.execute(query)}
        for name, digest in sorted(there.keys() - known):
            self._insert(db, registry, name, digest, there[name, digest])
        for name, digest in known - there.keys():
            for table in self._tables.by_version:
                ours = (table.c.registry == registry.url) & (table.c.name == name) & (table.c.digest == digest)
                db.execute(self._sql.delete(table).where(ours))
        self._insert_aliases(db, registry)
        return len(there.keys() - known), len(known - there.keys())

    def _insert(self, db: Any, registry: ModelRegistry, name: str, digest: str, published: float) -> None:
        manifest = registry.version(name, digest, published).manifest
        key, about = {"registry": registry.url, "name": name, "digest": digest}, manifest.about
        row = {"kind": about.kind, "task": about.task, "licence": about.licence, "parameters": about.parameters}
        whole = {**key, **row, "bytes": manifest.total_bytes, "published": published}
        db.execute(self._sql.insert(self._tables.versions), [whole])
        metrics = [{**key, "metric": metric, "value": value} for metric, value in about.metrics.items()]
        lineage = [{**key, "role": role, "source": source} for role, source in about.lineage.items()]
        for table, rows in ((self._tables.metrics, metrics), (self._tables.lineage, lineage)):
            if rows:
                db.execute(self._sql.insert(table), rows)

    def _insert_aliases(self, db: Any, registry: ModelRegistry) -> None:
        table = self._tables.aliases
        db.execute(self._sql.delete(table).where(table.c.registry == registry.url))
        rows = [
            {"registry": registry.url, "name": name, "digest": digest, "alias": alias}
            for name in registry.names()
            for digest, aliases in aliases_by_version(registry, name).items()
            for alias in aliases
        ]
        if rows:
            db.execute(self._sql.insert(table), rows)

    def _query(self, url: str, wanted: Filter) -> Any:
        versions, metrics = self._tables.versions, self._tables.metrics
        query = self._sql.select(versions).where(versions.c.registry == url)
        for column in ("name", "kind", "task"):
            if text := getattr(wanted, column):
                query = query.where(versions.c[column] == text)
        if wanted.licence:
            query = query.where(self._sql.func.lower(versions.c.licence) == wanted.licence.lower())
        for bound in wanted.bounds:
            same = [metrics.c[key] == versions.c[key] for key in _KEYS]
            within = OPERATORS[bound.operator](metrics.c.value, bound.value)
            query = query.where(self._sql.exists().where(*same, metrics.c.metric == bound.metric, within))
        return query.order_by(versions.c.name, versions.c.published.desc(), versions.c.digest)

    def _row(self, db: Any, found: Any) -> Listed:
        def rows(table: Any, *columns: str) -> list[Any]:
            query = self._sql.select(*(table.c[column] for column in columns))
            return list(db.execute(query.where(*(table.c[key] == found[key] for key in _KEYS))))

        about = About(
            kind=found["kind"],
            task=found["task"],
            licence=found["licence"],
            parameters=found["parameters"],
            metrics=dict(map(tuple, rows(self._tables.metrics, "metric", "value"))),
            lineage=dict(map(tuple, rows(self._tables.lineage, "role", "source"))),
        )
        aliases = tuple(sorted(alias for (alias,) in rows(self._tables.aliases, "alias")))
        fields = {key: found[key] for key in ("name", "digest", "published", "bytes")}
        return Listed(**fields, about=about, aliases=aliases)

    @contextmanager
    def _transaction(self, *, conflicts: bool = False) -> Iterator[Any]:
        """A transaction; with *conflicts*, an IntegrityError is the caller's."""
        try:
            with self._engine.begin() as db:
                yield db
        except self._sql.exc.IntegrityError:
            if conflicts:
                raise
            raise ConfigError("the index is being refreshed by others: try again") from None
        except self._sql.exc.SQLAlchemyError as error:
            # The URL of a database holds a password, and the driver's text may quote it.
            kind = type(getattr(error, "orig", None) or error).__name__
            raise ConfigError(f"the index cannot be used ({kind}): check its URL and that the database runs") from None


class _Tables:
    """The tables, under names of our own."""

    def __init__(self, sql: Any) -> None:
        self._sql = sql
        self._all = sql.MetaData()
        text, number = sql.String, sql.BigInteger
        self.versions = self._table(
            *("versions", *self._key()),
            *(sql.Column(name, text, nullable=False, index=True) for name in ("kind", "task", "licence")),
            *(sql.Column(name, number, nullable=False) for name in ("parameters", "bytes")),
            sql.Column("published", sql.Double, nullable=False),
        )
        self.metrics = self._table(
            *("metrics", *self._key(), sql.Column("metric", text, primary_key=True)),
            sql.Column("value", sql.Double, nullable=False),
        )
        self.lineage = self._table(
            *("lineage", *self._key(), sql.Column("role", text, primary_key=True)),
            sql.Column("source", text, nullable=False, index=True),
        )
        self.aliases = self._table("aliases", *self._key(), sql.Column("alias", text, primary_key=True))
        self.by_version = (self.versions, self.metrics, self.lineage, self.aliases)
        self._meta = self._table("schema", sql.Column("version", sql.Integer, primary_key=True))

    def prepare(self, db: Any) -> None:
        """Create the tables; those of another version are dropped, since all of it is in the registry."""
        if self._sql.inspect(db).has_table(self._meta.name):
            if list(db.execute(self._sql.select(self._meta.c.version))) == [(_VERSION,)]:
                return
            self._all.drop_all(db)
        self._all.create_all(db)
        db.execute(self._sql.insert(self._meta), [{"version": _VERSION}])

    def _key(self) -> list[Any]:
        return [self._sql.Column(name, self._sql.String, primary_key=True) for name in _KEYS]

    def _table(self, name: str, *columns: Any) -> Any:
        return self._sql.Table(f"hybrid_llm_{name}", self._all, *columns)


def _with_driver(url: str) -> str:
    """psycopg 3, unless the URL names another driver."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql+psycopg{separator}{rest}" if scheme in ("postgresql", "postgres") else url
