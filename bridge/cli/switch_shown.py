"""What `planfix-bridge switch` shows, for people and for programs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bridge.cli.common import escape, out, plain, table
from bridge.config import Account
from bridge.moves.plan import Plan, Step
from bridge.moves.switch import Cleaned, Moved, State
from bridge.store import MappedList, Result

_RESULTS: Final = (Result.MOVED, Result.OPTED_OUT, Result.REFUSED, Result.LATER, Result.MISSING)


def show_plan(plan: Plan) -> None:
    if not plan.steps and not plan.staying:
        out.print("Nothing to move: no list is elsewhere.")
        return
    shown = table("List", "Name", "From", "To", "There", "Contacts", "Waiting")
    for step in plan.steps:
        mapped = step.mapped
        cells = (mapped.public_id, mapped.name, mapped.provider, step.target, _there(step))
        shown.add_row(*(plain(cell) for cell in cells), str(step.contacts), str(step.pending))
    if plan.steps:
        out.print(shown)
    for mapped in plan.staying:
        out.print(f"{escape(mapped.public_id)}: its move broke off; it stays at {mapped.provider}", highlight=False)
    for about, finding in plan.findings:
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
        out.print(f"{mark} [bold]{escape(about)}[/]: {escape(finding.text)}", highlight=False)
    for note in plan.notes:
        out.print(f"[yellow]![/] {escape(note)}", highlight=False)
    if plan.refusals:
        _show_refusals(plan)
        return
    contacts = sum(step.contacts for step in plan.steps)
    calls = ", ".join(f"{count} of {name}" for name, count in plan.calls.items())
    minutes = max(1, round(plan.seconds / 60))
    out.print(
        f"Lists: {len(plan.steps)}, new ones: {plan.new_lists}, contacts: {contacts}. "
        f"About {minutes} min, calls: {calls}. Changes of a list wait while it is moved.",
        highlight=False,
        soft_wrap=True,
    )


def show_moved(left: Plan, moved: Sequence[Moved], report: Path, account: Account) -> None:
    shown = table("List", "Name", "Result", "Moved", "Opted out", "Refused", "Later", "Missing")
    for each in moved:
        counts = (str(each.counts.get(result, 0)) for result in _RESULTS)
        shown.add_row(plain(each.mapped.public_id), plain(each.mapped.name), each.state, *counts)
    if moved:
        out.print(shown)
    for each in moved:
        if each.detail:
            what = "stayed where it is" if each.state is State.STAYED else each.state
            out.print(f"{escape(each.mapped.public_id)} {what}: {escape(each.detail)}", highlight=False)
    out.print(f"What became of everybody: {escape(report)}", highlight=False, soft_wrap=True)
    if left.refusals:
        _show_refusals(left)
    elsewhere = {each.target for each in moved if each.state is State.MOVED} - {account.provider}
    for target in sorted(elsewhere):
        out.print(
            f"[bold]The settings still say `provider: {account.provider}` for {escape(account.name)}[/]: new lists are "
            f"made there. Change the line to `provider: {target}`.",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"The old lists are kept. Back to them: planfix-bridge switch {account.name} --back", highlight=False)
    out.print(f"To delete them for good: planfix-bridge switch {account.name} --clean-up", highlight=False)


def show_cleaned(told: Sequence[Cleaned]) -> None:
    out.print(f"Old lists deleted: {sum(each.gone for each in told)}.", highlight=False)
    for each in told:
        if not each.gone:
            out.print(f"{escape(_where(each.copy))} is still there: {escape(each.detail)}", highlight=False)


def _show_refusals(plan: Plan) -> None:
    out.print("[bold red]This cannot be moved:[/]")
    for refusal in plan.refusals:
        out.print(f"  {escape(refusal)}", highlight=False, soft_wrap=True)


def _there(step: Step) -> str:
    if step.going_on and step.copy is not None:
        return "goes on where it broke off"
    return f"new list “{step.name}”" if step.copy is None else "the old list, which was kept"


def show_copies(copies: Sequence[MappedList]) -> None:
    if not copies:
        out.print("No old lists are kept.")
        return
    shown = table("At", "Name there")
    for copy in copies:
        shown.add_row(plain(_where(copy)), plain(copy.provider_name))
    out.print(shown)


def _where(copy: MappedList) -> str:
    return f"{copy.provider}:{copy.provider_list_id or '?'}"


def copy_facts(copy: MappedList) -> dict[str, Any]:
    return {"at": copy.provider, "id": copy.provider_list_id, "name": copy.provider_name, "left_at": copy.left_at}


def plan_facts(plan: Plan) -> dict[str, Any]:
    return {
        "account": plan.account,
        "lists": [
            {
                "list": step.mapped.public_id,
                "name": step.mapped.name,
                "from": step.mapped.provider,
                "to": step.target,
                "there": step.copy.provider_list_id if step.copy else None,
                "name_there": step.copy.provider_name if step.copy else step.name,
                "contacts": step.contacts,
                "pending": step.pending,
            }
            for step in plan.steps
        ],
        "new_lists": plan.new_lists,
        "calls": plan.calls,
        "seconds": plan.seconds,
        "notes": plan.notes,
        "refusals": plan.refusals,
    }


def moved_facts(left: Plan, moved: Sequence[Moved], report: Path) -> dict[str, Any]:
    """What became of the lists; `left` is the plan of what is still to be moved."""
    lists = [
        {"list": each.mapped.public_id, "name": each.mapped.name, "to": each.target, "state": each.state.value}
        | {result.value: each.counts.get(result, 0) for result in _RESULTS}
        | {"detail": each.detail}
        for each in moved
    ]
    ok = all(each.state is not State.STAYED for each in moved)
    return {"ok": ok, "lists": lists, "report": str(report), "plan": plan_facts(left)}
