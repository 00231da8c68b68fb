"""What an answer must look like, as rules in llguidance's variant of Lark."""

from __future__ import annotations

import json
from typing import Any, Final

from tabagent import wire
from tabagent.worker.constraint.gbnf_to_lark import convert
from tabagent.worker.constraint.schema import check_schema

ANSWER: Final = "answer"
OPTIONS: Final = {
    # Once at every place where JSON may have blanks: a space, or a line break with indentation.
    # Models write both, and are worse when kept from it; but none can pour out blanks for ever.
    "whitespace_pattern": r" |\r?\n[ \t]{0,40}",
    # No \uXXXX: then a text has one spelling, and `{"\u0061": 1}` cannot smuggle in a second "a".
    "json_allowed_escapes": 'nrbtf\\"',
}


def answer_rules(format: wire.Format) -> str:
    """Rules that define `answer`; what else they define begins with `answer_`.

    Raises InvalidRequest for a schema and GrammarInvalid for a grammar that cannot be kept to.
    """
    match format.kind:
        case "json_object":
            return f"{ANSWER}: {json_rule({'type': 'object'}, format.pointer)}\n"
        case "json_schema":
            return f"{ANSWER}: {json_rule(format.schema, format.pointer)}\n"
        case "gbnf":
            return convert(format.grammar, ANSWER)


def json_rule(schema: Any, pointer: str) -> str:
    """JSON that satisfies `schema`, as the body of a Lark rule.

    `pointer` is where the request has the schema. Raises InvalidRequest, see check_schema.
    """
    return f"%json {json.dumps({**check_schema(schema, pointer), 'x-guidance': OPTIONS})}"
