"""The client library's own parts, and Markdown, in the browser that they are for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.extension.steps import TRANSPORTS, Bridge, count
from tests.live import FAKE, eventually


@pytest.fixture
def page(bridge: Bridge) -> Page:
    return bridge.browser.page("README.md")


def test_a_queue_takes_so_much_and_refuses_the_rest(page: Page) -> None:
    said = page.evaluate("""async () => {
      const { BoundedQueue } = await import("/client/queue.js");
      const queue = new BoundedQueue({ items: 3, bytes: 10 });
      const taken = [queue.offer("a", 4), queue.offer("b", 4), queue.offer("c", 4)];
      queue.close(new Error("the end"));
      const read = [];
      try {
        for (let next = await queue.next(); !next.done; next = await queue.next()) read.push(next.value);
      } catch (error) { read.push(error.message); }
      read.push((await queue.next()).done);
      const large = new BoundedQueue({ items: 3, bytes: 10 });
      return [taken, read, large.offer("larger than all of it", 99)];
    }""")
    assert said == [[True, True, False], ["a", "b", "the end", True], True]


def test_parts_are_cut_between_characters_and_fit_together(page: Page) -> None:
    said = page.evaluate("""async () => {
      const { Conversation, pieces } = await import("/client/conversation.js");
      const text = "ab\\u{1F600}\\u{1F600}cd";
      const cut = [...pieces(text, 3)];
      const whole = { request_id: "r1", success: true, data: { text: text.repeat(50) } };
      const sent = [];
      const conversation = new Conversation((message) => sent.push(message), { most: 120 });
      const reply = conversation.call("echo", { text: text.repeat(50) }, { requestId: "r1" });
      let seq = 0;
      for (const [piece, more] of pieces(JSON.stringify(whole), 100)) {
        conversation.receive({ request_id: "r1", event: "part", seq: seq++, more, text: piece });
      }
      const again = JSON.parse(sent.map((part) => part.text).join(""));
      return [cut, await reply, sent.length, again, sent.at(-1).more];
    }""")
    cut, reply, parts, again, more = said
    assert cut == [["ab", True], ["\U0001f600", True], ["\U0001f600c", True], ["d", False]]
    text = "ab\U0001f600\U0001f600cd" * 50
    assert reply == {"text": text}
    assert parts > 3 and more is False
    assert again == {"request_id": "r1", "route": "echo", "payload": {"text": text}}


def test_parts_that_do_not_follow_each_other_are_an_error(page: Page) -> None:
    code = page.evaluate("""async () => {
      const { Conversation } = await import("/client/conversation.js");
      const conversation = new Conversation(() => {}, { most: 1000 });
      const reply = conversation.call("models", {}, { requestId: "r1" });
      conversation.receive({ request_id: "r1", event: "part", seq: 1, more: false, text: "{}" });
      return reply.catch((error) => error.code);
    }""")
    assert code == "malformed-reply"


def test_events_are_read_however_they_are_cut(page: Page) -> None:
    said = page.evaluate("""async () => {
      const { eventsOf } = await import("/client/sse.js");
      const text = ": still here\\n\\nid: 4\\nevent: delta\\ndata: {\\"a\\":\\ndata: \\"é\\"}\\r\\n\\r\\ndata: [DONE]\\n\\n";
      const bytes = new TextEncoder().encode(text);
      const found = [];
      for (const size of [1, 7, bytes.length]) {
        const body = new ReadableStream({
          start(controller) {
            for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
            controller.close();
          },
        });
        const events = [];
        for await (const event of eventsOf(body)) events.push(event);
        found.push(events);
      }
      return found;
    }""")
    events = [
        {"name": "delta", "id": "4", "data": '{"a":\n"é"}'},
        {"name": "", "id": "", "data": "[DONE]"},
    ]
    assert said == [events] * 3


def rendered(page: Page, text: str) -> str:
    said: str = page.evaluate(
        """async (text) => {
          const { markdown } = await import("/panel/markdown.js");
          const place = document.createElement("div");
          place.append(markdown(text));
          for (const button of place.querySelectorAll("button, svg")) button.remove();
          return place.innerHTML;
        }""",
        text,
    )
    return said


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain *soft* **loud** `a*b*`", "<p>plain <em>soft</em> <strong>loud</strong> <code>a*b*</code></p>"),
        ("# One\n\ntext\n---", "<h3>One</h3><p>text</p><hr>"),
        ("- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
        ("> said\n> so", "<blockquote><p>said\nso</p></blockquote>"),
        ("snake_case_name and 2*3*4", "<p>snake_case_name and 2<em>3</em>4</p>"),
        ("\\*not soft\\*", "<p>*not soft*</p>"),
    ],
)  # fmt: skip
def test_markdown_becomes_what_it_says(page: Page, text: str, html: str) -> None:
    assert rendered(page, text) == html


@pytest.mark.parametrize(
    "text",
    [
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        "[press](javascript:alert(1))",
        "[press](data:text/html,<script>1</script>)",
        "![image](https://example.org/tracker.png)",
        "<https://example.org/\"onclick=\"alert(1)>",
        "```html\n<b>bold</b>\n```",
        "| a | b |\n| - | - |\n| <b>x</b> | [y](vbscript:1) |",
        "[a](https://example.org/%22%3E%3Cscript%3E)",
    ],
)  # fmt: skip
def test_nothing_a_model_writes_becomes_html(page: Page, text: str) -> None:
    found = page.evaluate(
        """async (text) => {
          const { markdown } = await import("/panel/markdown.js");
          const place = document.createElement("div");
          place.append(markdown(text));
          const tags = [...place.querySelectorAll("*")].map((one) => one.tagName.toLowerCase());
          const links = [...place.querySelectorAll("a")];
          return {
            tags,
            protocols: links.map(({ protocol }) => protocol),
            rels: links.map(({ rel }) => rel),
            handlers: [...place.querySelectorAll("*")].flatMap((one) =>
              one.getAttributeNames().filter((name) => name.startsWith("on"))),
          };
        }""",
        text,
    )
    assert not {"img", "script", "b", "iframe"} & set(found["tags"])
    assert set(found["protocols"]) <= {"https:"}
    assert all("noopener" in rel and "noreferrer" in rel for rel in found["rels"])
    assert found["handlers"] == []


def test_markdown_that_grows_ends_as_if_it_had_come_at_once(page: Page) -> None:
    text = "# Title\n\nSome *words*.\n\n```py\nx = 1\n\ny = 2\n```\n\n- a\n\n- b\n\nend **of it**\n\n1. x"
    grown, whole = page.evaluate(
        """async (text) => {
          const { GrowingMarkdown, markdown } = await import("/panel/markdown.js");
          const place = document.createElement("div");
          const growing = new GrowingMarkdown(place);
          for (let to = 1; to <= text.length; to += 1) growing.update(text.slice(0, to));
          const inside = () => place.innerHTML.replace('<div class="tail">', "").replace(/<\\/div>$/, "");
          const grown = inside();
          const at_once = document.createElement("div");
          at_once.append(markdown(text));
          return [grown, at_once.innerHTML];
        }""",
        text,
    )
    assert grown == whole


def test_html_cannot_be_set_at_all(page: Page, bridge: Bridge) -> None:
    said = page.evaluate("""() => {
      try { document.body.innerHTML = "<b>x</b>"; return "it was set"; } catch (error) { return error.name; }
    }""")
    assert said == "TypeError"
    bridge.browser.complaints.clear()  # which the browser notes


@pytest.mark.parametrize(("transport", "messages"), [("native", 7), ("http", 1), ("webrtc", 1)])
def test_what_is_larger_than_a_message_goes_and_comes_in_parts(
    bridge: Bridge, transport: str, messages: int
) -> None:
    page = bridge.library(transport)
    same = page.evaluate(
        """async (number) => {
          const content = "😀 'quoted' \\\\ é ".repeat(50_000);
          const messages = Array(number).fill({ role: "user", content });
          const data = { tabagent_session: 1, session: { title: "Large" }, messages };
          const session = await agent.call("import_session", { data });
          const history = await agent.call("get_history", { session_id: session.id });
          await agent.call("delete_session", { session_id: session.id });
          return history.data.map((message) => message.content === content);
        }""",
        messages,
    )
    assert same == [True] * messages


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_errors_are_the_whole_problem(bridge: Bridge, transport: str) -> None:
    page = bridge.library(transport)
    said: dict[str, Any] = page.evaluate(
        """() => agent.chat({ messages: [{ role: "user", content: "1" }], temperature: 9 }).whole()
             .catch(({ name, code, status, retryable, problem }) =>
               ({ name, code, status, retryable, problem }))"""
    )
    assert (said["name"], said["code"], said["status"]) == ("TabAgentError", "invalid-request", 400)
    assert said["retryable"] is False
    assert said["problem"]["errors"][0]["pointer"] == "/temperature"
    missing = page.evaluate("agent.call('no_such_thing').catch(({ code }) => code)")
    assert missing == "not-found"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_requests_at_once_keep_apart(bridge: Bridge, transport: str) -> None:
    page = bridge.library(transport)
    said = page.evaluate(
        """(model) => Promise.all([...Array(12).keys()].map((n) =>
             agent.chat({ model, messages: [{ role: "user", content: String(n + 1) }] }).whole()))""",
        FAKE,
    )
    assert said == [count(n + 1) + " " for n in range(12)]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_an_abort_ends_the_request_on_the_server(bridge: Bridge, transport: str) -> None:
    page = bridge.library(transport)
    name = page.evaluate(
        """async (model) => {
          const abort = new AbortController();
          const asked = { model, messages: [{ role: "user", content: "1000 sleep" }] };
          const text = agent.chat(asked, { signal: abort.signal }).text();
          await text.next();
          abort.abort();
          return text.next().catch(({ name }) => name);
        }""",
        FAKE,
    )
    assert name == "AbortError"
    eventually(bridge.server.idle, 2, "it goes on")


def test_events_of_the_server_are_followed_through_a_new_connection(bridge: Bridge) -> None:
    page = bridge.library()
    page.evaluate("""async () => {
      globalThis.seen = [];
      (async () => { for await (const event of agent.events()) seen.push(event); })().catch(() => {});
      await agent.health();
    }""")
    eventually(lambda: page.evaluate("seen.length"), what="no start")
    page.evaluate("agent.reconnect()")
    made = bridge.server.owner.post("/v1/sessions", json={"title": "Told"}).json()["id"]
    told = "seen.filter(({ type, data }) => type === 'session' && data.session === '%s').length"
    eventually(lambda: page.evaluate(told % made), 10, "the event was missed")
    bridge.server.owner.delete(f"/v1/sessions/{made}")
    eventually(lambda: page.evaluate(told % made) == 2, 10, "it was missed or came twice")


def test_types_name_everything_that_is_exported(page: Page) -> None:
    names = page.evaluate("import('/client/tabagent.js').then((library) => Object.keys(library))")
    methods = page.evaluate("""import("/client/tabagent.js").then(({ TabAgent, EventStream }) =>
      [TabAgent, EventStream].flatMap(({ prototype }) => Object.getOwnPropertyNames(prototype)))""")
    types = page.evaluate("fetch('/client/tabagent.d.ts').then((file) => file.text())")
    internal = {"constructor", "transport", "mislay", "abandon"}
    absent = [name for name in {*names, *methods} - internal if name not in types]
    assert absent == []
    assert json.dumps(types).count("export") >= len(names)
