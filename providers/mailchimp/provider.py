"""Mailchimp: a Planfix list is a tag in one audience, or an audience. Quirks: docs/providers/mailchimp.md."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, ClassVar, Literal

from mailchimp_marketing.api.lists_api import ListsApi
from mailchimp_marketing.api.ping_api import PingApi
from msgspec import Meta

from providers.base import (
    AuthFailed,
    Capabilities,
    Choice,
    Contact,
    Finding,
    Limits,
    Member,
    Message,
    Outcome,
    Proof,
    Reason,
    Refused,
    Secret,
    Settings,
)
from providers.mailchimp.audiences import AudienceLists
from providers.mailchimp.client import BadRequest, MailchimpClient, NotThere
from providers.mailchimp.members import BATCH_SIZE, ID_FIELD, PAGE_SIZE, Members, Raw
from providers.mailchimp.tags import TagLists
from providers.sdk import SdkProvider

FIELDS_MAX = 30  # fields of an audience on all plans but the largest

Text = str | None


class MailchimpSettings(Settings, frozen=True, kw_only=True):
    """The settings below `company` are only for `list_as: audience`: Mailchimp wants them of every new audience."""

    api_key: Annotated[Secret, Meta(description="API key, with the data centre at its end: ...-us21")]
    audience: Annotated[
        Text,
        Meta(
            description="id of the audience that holds the tags; may be left out where there is only one",
            examples=["a1b2c3d4e5"],
        ),
    ] = None
    list_as: Annotated[
        Literal["tag", "audience"],
        Meta(description="what a Planfix list becomes: a tag in one audience, or an audience of its own"),
    ] = "tag"
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="longest wait for one answer; Mailchimp itself ends a call at 120 s")
    ] = 120.0
    company: Annotated[Text, Meta(description="sender's company, in the footer of mails", examples=["Example Ltd"])] = (
        None
    )
    address: Annotated[
        Text, Meta(description="sender's street and house, in the footer", examples=["1 Example Street"])
    ] = None
    city: Annotated[Text, Meta(description="sender's city, in the footer", examples=["Berlin"])] = None
    state: Annotated[Text, Meta(description="sender's state or region, in the footer", examples=["Berlin"])] = None
    zip: Annotated[Text, Meta(description="sender's postal code, in the footer", examples=["10115"])] = None
    country: Annotated[Text, Meta(description="sender's country, two letters: DE", examples=["DE"])] = None
    permission_reminder: Annotated[
        Text, Meta(description="why people get these mails, in one sentence", examples=["You asked for our news."])
    ] = None
    from_name: Annotated[Text, Meta(description="sender's name", examples=["Example Ltd"])] = None
    from_email: Annotated[
        Text, Meta(description="sender's address, on a domain verified in Mailchimp", examples=["news@example.org"])
    ] = None
    subject: Annotated[Text, Meta(description="subject of mails that set none", examples=["News"])] = None
    language: Annotated[Text, Meta(description="language of the sign-up forms: en, ru", examples=["en"])] = None


class MailchimpProvider(SdkProvider[MailchimpSettings]):
    """Members are known by the MD5 of their address and carry the Planfix id in the field PLANFIXID."""

    name = "mailchimp"
    title = "Mailchimp"
    settings_type = MailchimpSettings
    capabilities: ClassVar[Capabilities] = Capabilities(
        list_is="a tag in one audience, or an audience of its own",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=True,
        takes_opt_outs=True,
        unsupported=(
            "with `list_as: audience`, who unsubscribes in an old mail after the contact has left the list is kept out "
            "by Mailchimp, and shown to nobody: a move to another service does not hear of it",
        ),
        proof=Proof.OFFICIAL_SPEC,
    )
    limits: ClassVar[Limits] = Limits(batch_size=BATCH_SIZE, parallel_calls=8, list_name_chars=50)

    def __init__(self, settings: MailchimpSettings) -> None:
        super().__init__(settings)
        self._client = MailchimpClient(
            api_key=settings.api_key.reveal(),
            base_url=settings.base_url,
            timeout_s=settings.timeout_s,
            connections=self.parallel_calls,
        )
        self._api = ListsApi(self._client)
        self._members = Members(self.call, self._api)
        self._lists: TagLists | AudienceLists
        if settings.list_as == "tag":
            self._lists = TagLists(self.call, self._api, self._members, settings.audience)
        else:
            self._lists = AudienceLists(self.call, self._api, self._members, self._audience_defaults)

    async def close(self) -> None:
        await super().close()
        self._client.close()

    async def find_list(self, name: str) -> str | None:
        return await self._lists.find(name)

    async def create_list(self, name: str) -> str:
        try:
            return await self._lists.create(name)
        except BadRequest as error:
            if any(word in error.detail.lower() for word in ("already", "exists", "in use", "taken")):
                raise Refused(Reason.NAME_TAKEN, error.detail) from error
            raise

    async def delete_list(self, list_id: str) -> None:
        await self._lists.delete(list_id)

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self._lists.upsert(list_id, contacts)

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self._lists.remove(list_id, contacts)

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self._lists.keep_out(list_id, contacts)

    def members(self, list_id: str) -> AsyncIterator[Member]:
        return self._lists.members(list_id)

    async def kept_out(self) -> AsyncIterator[Member]:
        if isinstance(self._lists, TagLists):  # an audience shows whoever left it, and says nothing of others
            async for member in self._lists.kept_out():
                yield member

    def _audience_defaults(self) -> Raw:
        """What a new audience needs besides its name. Raises Refused, naming the settings that are missing."""
        missing = self._missing_defaults()
        if missing:
            raise Refused(detail=f"for list_as: audience set {', '.join(missing)}")
        s = self.settings
        contact = {"company": s.company, "address1": s.address, "city": s.city, "country": s.country}
        contact |= {name: value for name, value in (("state", s.state), ("zip", s.zip)) if value}
        return {
            "contact": contact,
            "permission_reminder": s.permission_reminder,
            "campaign_defaults": {
                "from_name": s.from_name,
                "from_email": s.from_email,
                "subject": s.subject,
                "language": s.language,
            },
        }

    def _missing_defaults(self) -> list[str]:
        needed = (
            "company", "address", "city", "country",
            "permission_reminder", "from_name", "from_email", "subject", "language",
        )  # fmt: skip
        return [name for name in needed if not getattr(self.settings, name)]

    async def choices(self) -> dict[str, list[Choice]]:
        if not isinstance(self._lists, TagLists):
            return {}
        return {"audience": [Choice(str(one["id"]), str(one["name"])) for one in await self._lists.audiences()]}

    async def check(self) -> list[Finding]:
        try:
            await self.call("ping", PingApi(self._client).get)
            well = Finding(True, Message("Mailchimp takes the API key"))
            if isinstance(self._lists, TagLists):
                return [well, *await self._check_tags(self._lists)]
            return [well, *await self._check_audiences()]
        except AuthFailed as error:
            advice = Message("make a new API key in Mailchimp (Account, Extras, API keys) and put it into api_key")
            return [Finding(False, Message("Mailchimp refuses the API key: %(detail)s", detail=error.detail), advice)]
        except Refused as error:
            refused = Message("Mailchimp refuses: %(detail)s", detail=error.detail)
            return [Finding(False, refused, Message("see docs/providers/mailchimp.md"))]

    async def _check_tags(self, lists: TagLists) -> list[Finding]:
        try:
            audience = await lists.audience()
        except Refused:
            found = ", ".join(f"{one['id']} ({one['name']})" for one in await lists.audiences())
            advice = Message("put the id of one audience of the Mailchimp account into `audience`")
            return [Finding(False, Message("audiences of the account: %(audiences)s", audiences=found or "-"), advice)]
        try:
            told = await self.call("read_audience", self._api.get_list, audience, fields=["id", "name"])
        except NotThere:
            advice = Message("put the id of an audience into `audience` (Mailchimp: Audience, Settings, Audience ID)")
            return [Finding(False, Message("there is no audience %(audience)s", audience=audience), advice)]
        become = Message("lists become tags in the audience %(name)s (%(id)s)", name=told["name"], id=audience)
        return [
            Finding(True, become),
            *self._check_fields(await self._members.read_tags(audience)),
        ]

    def _check_fields(self, tags: frozenset[str]) -> list[Finding]:
        findings = [
            Finding(True, Message("the audience has no field %(field)s: that name is left out", field=tag))
            for tag in ("FNAME", "LNAME")
            if tag not in tags
        ]
        if ID_FIELD in tags:
            findings.append(Finding(True, Message("the Planfix id is kept in the field %(field)s", field=ID_FIELD)))
        elif len(tags) < FIELDS_MAX:
            will_be = Message("the field %(field)s for the Planfix id will be made at first use", field=ID_FIELD)
            findings.append(Finding(True, will_be))
        else:
            no_room = Message("the audience may have no room for the field %(field)s", field=ID_FIELD)
            findings.append(Finding(False, no_room, Message("delete an audience field that is not used")))
        return findings

    async def _check_audiences(self) -> list[Finding]:
        answer = await self.call(
            "find_audience", self._api.get_all_lists, count=PAGE_SIZE, fields=["lists.id", "total_items"]
        )
        become = Message(
            "lists become audiences; the account has %(count)s, the plan limits how many", count=answer["total_items"]
        )
        missing = self._missing_defaults()
        advice = Message("set %(settings)s", settings=", ".join(missing)) if missing else None
        return [Finding(True, become), Finding(not missing, Message("settings of new audiences"), advice)]
