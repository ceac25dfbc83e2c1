"""Caches as commands: what there is, whether it is sound, and deletion."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from pipeline import formats
from pipeline.console import Console
from pipeline.formats import printable
from pipeline.options import CACHE, JSON, PLACE

if TYPE_CHECKING:
    from cache.stores import Place
    from cache.verification import Report


@click.group()
def cache() -> None:
    """List, show, check and remove caches of a teacher's answers.

    NAME is the first digits of a fingerprint, or the path or URL of a cache's directory; show and
    path need none where there is one cache alone.
    """


@cache.command("list")
@CACHE
@JSON
def list_caches_command(cache: str, as_json: bool) -> None:
    """List the caches below a root.

    Example: pipeline cache list
    """
    from cache.lookup import list_places
    from cache.opening import summarise

    entries = [summarise(place) for place in list_places(cache)]
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    if not entries:
        click.echo(f"no caches below {cache}")
    for entry in entries:
        if entry["error"]:
            click.echo(f"{'unreadable':<14} {entry['path']}: {entry['error']}")
            continue
        click.echo(
            f"{str(entry['fingerprint'])[:12]:<14} {entry['committed']:>5}/{entry['shards']:<5} "
            f"{entry['bytes'] / 2**20:>9.1f} MiB  {printable(entry['label'])}"
        )


@cache.command("path")
@click.argument("name", type=PLACE, required=False)
@CACHE
def path(name: str | None, cache: str) -> None:
    """Print where a cache lies, and nothing else.

    Example: du -sh $(pipeline cache path 1a2b)
    """
    from cache.lookup import find_place

    click.echo(str(find_place(cache, name)))


@cache.command("show")
@click.argument("name", type=PLACE, required=False)
@CACHE
@JSON
def show(name: str | None, cache: str, as_json: bool) -> None:
    """Show what a cache holds, how far it is and who works on it.

    All rows are read for that.  What is damaged is said and makes the exit code 1.

    Example: pipeline cache show 1a2b
    """
    from cache.lookup import find_place
    from cache.opening import open_cache
    from cache.overview import describe_cache

    console = Console()
    with console.catch_signals():
        opened = open_cache(find_place(cache, name))
        with console.track("reading", len(opened.committed()), 0, "shard") as advance:
            found = describe_cache(opened, advance, console.warn)
    if as_json:
        click.echo(formats.format_json(found))
    else:
        for key, value in formats.format_overview(found):
            click.echo(f"{key:<12} {printable(value)}")
    if found["damage"]:
        for line in found["damage"]:
            click.echo(printable(line), err=True)
        click.echo(f"run `pipeline cache verify {opened.place}`", err=True)
        click.get_current_context().exit(1)


@cache.command("verify")
@click.argument("names", type=PLACE, nargs=-1, metavar="[NAME]...")
@click.option("--repair", is_flag=True, help="Remove what is damaged, to be computed again.")
@CACHE
@JSON
def verify(names: tuple[str, ...], repair: bool, cache: str, as_json: bool) -> None:
    """Check every byte of caches, by default of all below the root.

    Exit code 1 where anything is damaged, with --repair only where it could not be removed.
    Shards that are not computed yet, and files that a killed process has left, are no damage.

    Example: pipeline cache verify 1a2b --repair
    """
    from cache.errors import CacheError, ManifestError
    from cache.lookup import find_places, list_places

    console = Console()
    results, failed = [], False
    with console.catch_signals():
        places = find_places(cache, names) if names else list_places(cache)
        for place in places:
            try:
                report, removed = _verify(place, repair, console)
            except CacheError as error:
                # A directory that nobody called a cache may be anything.
                known = bool(names) or type(error) is not ManifestError
                failed |= known
                (console.say if known else console.warn)(f"{'error: ' * known}{error}")
                results.append({"path": str(place), "error": str(error)})
                continue
            failed |= bool(report.faults) and removed is None
            results.append(formats.report_data(report, removed))
            if not as_json:
                for line in formats.report_lines(report, removed):
                    click.echo(printable(line))
                _advise(report, removed, console)
    if as_json:
        click.echo(json.dumps(results, indent=2))
    elif not places:
        click.echo(f"no caches below {cache}")
    if failed:
        click.get_current_context().exit(1)


@cache.command("remove")
@click.argument("names", type=PLACE, nargs=-1, required=True, metavar="NAME...")
@click.option("--yes", is_flag=True, help="Remove without asking.")
@CACHE
def remove(names: tuple[str, ...], yes: bool, cache: str) -> None:
    """Remove caches, after asking; one that a process is filling stays.

    Example: pipeline cache remove 1a2b
    """
    from cache.lookup import find_places
    from cache.removal import check_removable, remove_cache

    places = find_places(cache, names)
    for place in places:
        manifest = check_removable(place)
        files = place.open_files()
        size = sum(size for _, size in files.walk()) / 2**20
        label = f"{manifest.label}, {manifest.layout.rows:,} rows" if manifest else "no manifest"
        contents = f"{len(files.names('commits')):,} commit records, {size:,.1f} MiB"
        click.echo(f"{place}: {printable(label)}, {contents}", err=True)
    if not yes:
        if sys.stdin is None or not sys.stdin.isatty():
            raise click.UsageError("remove asks first; where nobody can answer, give --yes")
        if not click.confirm("Remove this?" if len(places) == 1 else "Remove these?", err=True):
            click.echo("nothing was removed", err=True)
            click.get_current_context().exit(1)
    for place in places:
        remove_cache(place)
        left = place.open_files().names()
        said = f"; what is not part of a cache stays: {', '.join(left)}" if left else ""
        click.echo(f"removed {place}{said}", err=True)


def _verify(place: Place, repair: bool, console: Console) -> tuple[Report, list[str] | None]:
    from cache.format import DIRECTORY
    from cache.verification import repair_cache, verify_cache

    total = len(place.open_files().names(DIRECTORY))
    name = str(place).rpartition("/")[2]
    with console.track(f"verify {name[:12]}", total, 0, "shard") as advance:
        report = verify_cache(place, advance)
    return report, repair_cache(report) if repair and report.faults else None


def _advise(report: Report, removed: list[str] | None, console: Console) -> None:
    if not report.faults:
        return
    if removed is None:
        console.say(
            f"`pipeline cache verify {report.place} --repair` removes what is damaged and says how "
            "to make it again"
        )
    else:
        known = f", which `pipeline cache show {report.place}` tells" if report.cache else ""
        console.say(f"to make it again: pipeline teacher with the same settings{known}")
