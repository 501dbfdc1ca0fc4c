"""Every text that reaches Planfix, by code, in each language. People read them: what is wrong, then what to do.

The codes are those of `providers.base.Reason`, of `planfix.BadRequest`, of `planfix.Failure` and of the HTTP errors.
"""

from collections.abc import Mapping
from typing import Final

from providers.base import redact

LANGUAGES: Final = ("en", "ru")
VALUE_MAX_CHARS: Final = 200

TEXTS: Final[Mapping[str, Mapping[str, str]]] = {
    # one contact is refused
    "no_address": {
        "en": "The contact has no email address. Fill it in.",
        "ru": "У контакта нет email-адреса. Заполните его.",
    },
    "invalid_address": {
        "en": "The email address is not valid. Correct it.",
        "ru": "Некорректный email-адрес. Исправьте его.",
    },
    "forgotten": {
        "en": "The contact was deleted at the email service for good. Only the person can subscribe again.",
        "ru": "Контакт удалён в сервисе рассылок безвозвратно. Подписаться снова может только сам человек.",
    },
    "too_often": {
        "en": "The email service sees too many sign-ups of this address. Save the contact again later.",
        "ru": "Этот адрес слишком часто подписывали в сервисе рассылок. Сохраните контакт ещё раз позже.",
    },
    "contact_refused": {
        "en": "The email service refused the contact. Check its address and names.",
        "ru": "Сервис рассылок не принял контакт. Проверьте его адрес и имя.",
    },
    "all_refused": {
        "en": "No contact was accepted. Refused: {count}. The first reason: {reason}",
        "ru": "Ни один контакт не принят. Отклонено: {count}. Первая причина: {reason}",
    },
    # the email service refuses a whole request
    "auth_failed": {
        "en": "The email service refused its key. Put a working key into the bridge's configuration.",
        "ru": "Сервис рассылок не принял ключ. Укажите действующий ключ в настройках моста.",
    },
    "rights": {
        "en": "The key of the email service lacks rights. Allow it to manage lists and contacts.",
        "ru": "У ключа сервиса рассылок не хватает прав. Разрешите ему управлять списками и контактами.",
    },
    "plan_limit": {
        "en": "The plan of the email service is used up. Remove contacts there or take a larger plan.",
        "ru": "Лимит тарифа в сервисе рассылок исчерпан. Удалите там лишние контакты или смените тариф.",
    },
    "list_limit": {
        "en": "The email service allows no more lists. Delete unused ones there or take a larger plan.",
        "ru": "В сервисе рассылок больше нельзя создавать списки. Удалите там лишние или смените тариф.",
    },
    "list_gone": {
        "en": "The list is gone at the email service. Turn the mailing of the filter off and on again.",
        "ru": "Списка больше нет в сервисе рассылок. Выключите и снова включите рассылку в фильтре.",
    },
    "name_taken": {
        "en": "The email service already has a list of this name. Rename the filter.",
        "ru": "Список с таким названием уже есть в сервисе рассылок. Переименуйте фильтр.",
    },
    "request_refused": {
        "en": "The email service refused the request. The bridge's log tells why.",
        "ru": "Сервис рассылок отклонил запрос. Причину смотрите в журнале моста.",
    },
    "unsupported": {
        "en": "The email service cannot do this. The bridge's log tells what to do instead.",
        "ru": "Сервис рассылок этого не умеет. Что делать, смотрите в журнале моста.",
    },
    "esp_down": {
        "en": "The email service does not answer. Try again in a few minutes.",
        "ru": "Сервис рассылок не отвечает. Повторите через несколько минут.",
    },
    # the bridge holds removals back; shown by its commands
    "held": {
        "en": "Too many removals at once: they wait. Look, then let them go: planfix-bridge pending --release LIST.",
        "ru": "Слишком много удалений сразу, они ждут. Проверив, отпустите: planfix-bridge pending --release LIST.",
    },
    # the bridge refuses
    "unknown_list": {
        "en": "The bridge does not know this list. Turn the mailing of the filter off and on again.",
        "ru": "Мост не знает этого списка. Выключите и снова включите рассылку в фильтре.",
    },
    "list_deleted": {
        "en": "This list has been deleted. Turn the mailing of the filter off and on again.",
        "ru": "Этот список удалён. Выключите и снова включите рассылку в фильтре.",
    },
    "provider_missing": {
        "en": "The list's email service is not in the bridge's configuration any more. Put it back there.",
        "ru": "Сервиса рассылок, где создан этот список, больше нет в настройках моста. Верните его туда.",
    },
    "storage": {
        "en": "The bridge could not store the change. Check its database and repeat the change.",
        "ru": "Мост не смог сохранить изменение. Проверьте его базу данных и повторите изменение.",
    },
    "internal": {
        "en": "The bridge failed. Look at its log and repeat the request.",
        "ru": "В мосте произошёл сбой. Посмотрите его журнал и повторите запрос.",
    },
    "unauthorized": {
        "en": "The API key is wrong. Type the token of the bridge's account into the Planfix settings.",
        "ru": "Неверный API-ключ. Укажите в настройках Планфикса токен аккаунта из настроек моста.",
    },
    "not_found": {
        "en": "There is nothing at this URL. Check the URL in the Planfix settings.",
        "ru": "По этому URL ничего нет. Проверьте URL в настройках Планфикса.",
    },
    "method_not_allowed": {
        "en": "This URL does not take this HTTP method. Send a POST.",
        "ru": "Этот URL не принимает такой HTTP-метод. Отправьте POST.",
    },
    "too_large": {
        "en": "The request is too large. Raise server.max_body_mb in the bridge's configuration.",
        "ru": "Запрос слишком большой. Увеличьте server.max_body_mb в настройках моста.",
    },
    "too_slow": {
        "en": "The request did not arrive in time. Send it again.",
        "ru": "Запрос не пришёл целиком за отведённое время. Отправьте его снова.",
    },
    "bad_http": {
        "en": "This is not a proper HTTP request. Check the URL and the proxy before the bridge.",
        "ru": "Это некорректный HTTP-запрос. Проверьте URL и прокси перед мостом.",
    },
    # the request is malformed
    "malformed": {
        "en": "The body is not a JSON object. Send one JSON object in UTF-8.",
        "ru": "Тело запроса — не JSON-объект. Отправьте один JSON-объект в UTF-8.",
    },
    "not_utf8": {
        "en": "The body is not UTF-8. Send it in UTF-8.",
        "ru": "Тело запроса не в UTF-8. Отправьте его в UTF-8.",
    },
    "duplicate_key": {
        "en": "An object in the body has the same key twice. Send every key once.",
        "ru": "В одном из объектов запроса ключ встречается дважды. Отправьте каждый ключ один раз.",
    },
    "too_deep": {
        "en": "The JSON is nested too deeply. Send only the documented fields.",
        "ru": "Слишком глубокая вложенность JSON. Отправьте только поля из документации.",
    },
    "unknown_action": {
        "en": "{field}: no known action. Send createList, deleteList, importContacts or updateContact.",
        "ru": "{field}: неизвестное действие. Отправьте createList, deleteList, importContacts или updateContact.",
    },
    "unknown_change": {
        "en": "{field}: no known change. Send add, update or delete.",
        "ru": "{field}: неизвестное изменение. Отправьте add, update или delete.",
    },
    "missing_field": {
        "en": "{field}: missing or empty. Fill it in.",
        "ru": "{field}: поле отсутствует или пусто. Заполните его.",
    },
    "not_text": {
        "en": "{field}: not a text. Send a string.",
        "ru": "{field}: не текст. Отправьте строку.",
    },
    "not_id": {
        "en": "{field}: not an id. Send a whole number or a short text.",
        "ru": "{field}: не идентификатор. Отправьте целое число или короткий текст.",
    },
    "not_object": {
        "en": "{field}: not an object. Send a JSON object.",
        "ru": "{field}: не объект. Отправьте JSON-объект.",
    },
    "not_array": {
        "en": "{field}: not an array. Send a JSON array.",
        "ru": "{field}: не массив. Отправьте JSON-массив.",
    },
    "too_long": {
        "en": "{field}: the text is too long. Shorten it.",
        "ru": "{field}: слишком длинный текст. Сократите его.",
    },
}


def text(code: str, language: str, **values: object) -> str:
    """The text of `code` with its placeholders filled in; `values` may be anything, they come out `presentable`.

    A code or language that does not exist, or a value that is missing, is a KeyError: a fault of the caller.
    """
    return TEXTS[code][language].format_map({name: presentable(value) for name, value in values.items()})


def presentable(value: object) -> str:
    """`value` as one line for people: redacted, of at most `VALUE_MAX_CHARS` characters, always UTF-8."""
    line = redact(" ".join(str(value).encode("utf-8", "replace").decode().split()))
    return line if len(line) <= VALUE_MAX_CHARS else line[: VALUE_MAX_CHARS - 1] + "…"
