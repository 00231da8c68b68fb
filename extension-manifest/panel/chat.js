// The conversation that is shown: its history, what is asked now, and the answer as it grows.

import { textOf } from "../client/tabagent.js";
import { h, icon, show } from "./dom.js";
import { activeTab, capture, COLLECTION, push, showPassage } from "./page.js";
import { citationsOf, keepCitations, keepRunning, running } from "./store.js";
import { AnswerTurn, textOfMessage, userTurn } from "./turns.js";

const PAGE = 40; // messages
const STOP_MS = 3000; // until a stop is insisted on
const NOT_FOUND = "Nothing in this page answers that.";

export class Chat {
  session = null;
  #agent = null;
  #stop = null; // of the answer that is written now
  #before = null; // cursor of earlier messages

  constructor({ log, empty, models, onSession, onBusy, onTrouble, windowId }) {
    Object.assign(this, { log, empty, models, onSession, onBusy, onTrouble, windowId });
    log.addEventListener("grown", () => this.#follow());
    log.replaceChildren(empty);
  }

  get busy() {
    return this.#stop !== null;
  }

  /** A new connection. After the first, what was being written when the panel closed goes on. */
  async use(agent) {
    const first = this.#agent === null;
    this.#agent = agent;
    const left = first ? await running(this.windowId) : null;
    if (left) await this.#goOn(left);
  }

  /** The history is otherwise: an answer that nobody followed here may have ended. */
  async refresh() {
    if (this.session && !this.busy && this.log.querySelector(".unended")) await this.#history();
  }

  clear() {
    this.#leave();
    this.#setSession(null);
    this.#before = null;
    this.log.replaceChildren(this.empty);
  }

  async open(id) {
    this.#leave();
    this.log.replaceChildren(h("div", { className: "empty" }, h("span", { className: "spinner" })));
    try {
      this.#setSession(await this.#agent.call("get_session", { session_id: id }));
      if (this.session.model) this.models.choose(this.session.model);
      await this.#history();
    } catch (error) {
      this.#setSession(null);
      this.log.replaceChildren(this.#errorCard(error, () => this.open(id)));
      this.onTrouble(error);
    }
  }

  /** Ask the model. */
  ask(text) {
    return this.#answer(text, text, "chat", async () => ({
      route: "chat",
      payload: {
        messages: [{ role: "user", content: text }],
        stream_options: { include_usage: true },
      },
    }));
  }

  summarise({ text, title }) {
    this.clear();
    const asked = `Summarise the following text in a few sentences.\n\n"""\n${text}\n"""`;
    const shown = title
      ? `Summarise this selection from “${title}”:\n\n${text}`
      : `Summarise:\n\n${text}`;
    return this.#answer(shown, asked, "chat", async () => ({
      route: "chat",
      payload: {
        messages: [{ role: "user", content: asked }],
        stream_options: { include_usage: true },
      },
    }));
  }

  /** Ask about the page in the tab that is looked at. */
  askPage(question) {
    return this.#answer(question, question, "page", async (answer, signal) => {
      answer.say("Reading the page");
      const tab = await activeTab();
      if (!tab) throw new Error("There is no page in this window to ask about.");
      const page = await capture(tab);
      answer.say("Taking the page in");
      const id = await push(this.#agent, page, { signal });
      answer.say("Looking for passages");
      const payload = {
        query: question,
        collections: [COLLECTION],
        filter: { document_ids: [id] },
      };
      return { route: "rag", payload, page: { url: page.url, tabId: page.tabId } };
    });
  }

  /** End the answer in order: what there is of it is kept. */
  stop() {
    const now = this.#stop;
    if (!now) return;
    if (!now.requestId) return void now.abort.abort();
    this.#agent
      .call("stop_generation", { request_id: now.requestId })
      .catch(() => now.abort.abort());
    setTimeout(() => now.abort.abort(), STOP_MS);
  }

  // ---- asking -----------------------------------------------------------------------------------
  async #answer(shown, said, kind, prepare) {
    if (this.busy) return;
    this.empty.remove();
    this.log.append(userTurn(shown));
    const again = () => this.#answer(shown, said, kind, prepare);
    await this.#write(null, again, async (answer, now) => {
      const { route, payload, page } = await prepare(answer, now.abort.signal);
      await this.#ensureSession();
      answer.say(kind === "page" ? "Looking for passages" : "Thinking");
      const asked = { ...payload, session_id: this.session.id };
      if (this.models.chosen) asked.model = this.models.chosen;
      now.requestId = crypto.randomUUID();
      const left = { requestId: now.requestId, sessionId: this.session.id, page };
      await keepRunning(this.windowId, left);
      const { signal } = now.abort;
      return [this.#agent.stream(route, asked, { signal, requestId: now.requestId }), page];
    });
  }

  /** Answer once more, in the place of the answer that is there. */
  async #again(answerId, element) {
    if (this.busy) return;
    await this.#write(element, null, async (answer, now) => {
      answer.say("Thinking");
      now.requestId = crypto.randomUUID();
      const asked = { messages: [], session_id: this.session.id, replace_message_id: answerId };
      asked.stream_options = { include_usage: true };
      if (this.models.chosen) asked.model = this.models.chosen;
      await keepRunning(this.windowId, { requestId: now.requestId, sessionId: this.session.id });
      const { signal } = now.abort;
      return [this.#agent.stream("chat", asked, { signal, requestId: now.requestId })];
    });
  }

  /** After the panel was closed in the middle of an answer. */
  async #goOn({ requestId, sessionId, page }) {
    await this.open(sessionId);
    if (!this.session) return void keepRunning(this.windowId, null);
    const last = this.log.querySelector(".turn:last-child");
    const place = last?.matches(".answer") ? last : null;
    // From here on the panel can be used: the end of the answer is not waited for.
    this.#write(place, null, async (answer, now) => {
      now.requestId = requestId;
      answer.say("Picking up the answer");
      return [this.#agent.resume(requestId, 0, { signal: now.abort.signal }), page];
    }).catch(console.error);
  }

  /** Write an answer: `begin` gives its stream. It takes the place of `old`, or comes last. */
  async #write(old, again, begin) {
    const answer = this.#turn();
    if (old) old.replaceWith(answer.element);
    else this.log.append(answer.element);
    const now = { abort: new AbortController(), requestId: null, left: false };
    this.#stop = now;
    this.onBusy(true);
    this.#follow(true);
    const told = { model: "", session: null, usage: null, timings: null, done: null };
    try {
      const [stream, page] = await begin(answer, now);
      answer.page = page;
      for await (const event of stream) this.#told(event, answer, told);
      if (!now.left) await this.#ended(answer, told);
    } catch (error) {
      if (now.left) return; // another conversation is shown
      if (now.abort.signal.aborted) answer.finish({ note: "Stopped.", again });
      else if (error.code === "request-not-found" && !again) await this.#history();
      else
        answer.fail(
          error,
          told.session
            ? () => this.#again(told.session.answer_id, answer.element)
            : again && (() => this.#retry(answer, again)),
        );
      this.onTrouble(error);
    } finally {
      if (!now.left) await keepRunning(this.windowId, null);
      if (this.#stop === now) {
        this.#stop = null;
        this.onBusy(false);
        this.#follow();
        if (this.session && !this.session.title) await this.#entitle().catch(() => {});
      }
    }
  }

  #retry(answer, again) {
    answer.element.previousElementSibling?.remove(); // it is asked again
    answer.element.remove();
    again();
  }

  #turn() {
    const answer = new AnswerTurn({
      onCite: ({ text, url, source }, claim) => {
        const place = { tabId: answer.page?.tabId, url: answer.page?.url ?? url ?? source };
        return showPassage({ ...place, text, claim });
      },
    });
    return answer;
  }

  #told(event, answer, told) {
    if (event.type === "retrieval") {
      answer.sources(event.sources);
      answer.say("Answering");
    } else if (event.type === "done") {
      Object.assign(told, { done: event, ...event });
    } else if (event.choices) {
      told.model = event.model;
      if (event.session) told.session = event.session;
      const delta = event.choices[0]?.delta;
      if (delta?.reasoning_content) answer.think(delta.reasoning_content);
      const end = event.choices[0]?.finish_reason;
      if (end) told.finish_reason = end;
      if (event.usage) Object.assign(told, { usage: event.usage, timings: event.timings });
    }
    answer.add(textOf(event));
  }

  async #ended(answer, told) {
    const session = told.session;
    const again = session ? () => this.#again(session.answer_id, answer.element) : null;
    const notes = [];
    if (told.done && !told.done.found) notes.push(NOT_FOUND);
    if (told.finish_reason === "length") notes.push("The answer reached its greatest length.");
    if (session?.omitted_messages)
      notes.push(
        `${session.omitted_messages} earlier messages did not fit into the model's context.`,
      );
    if (told.done) {
      if (!answer.text && told.done.answer) answer.add(told.done.answer);
      if (session) {
        const kept = told.done.sources.map(({ number, title, source, url, headings, text }) => ({
          number,
          title,
          source,
          url,
          headings,
          text,
        }));
        await keepCitations(session.answer_id, { sources: kept, page: answer.page });
      }
    }
    // A page is asked about anew; an answer from it is not made from the messages alone.
    answer.finish({ meta: meta(told), note: notes.join(" "), again: told.done ? null : again });
  }

  /** By now the server has made a title of what was said. */
  async #entitle() {
    const session = await this.#agent.call("get_session", { session_id: this.session.id });
    if (session.id === this.session?.id) this.#setSession(session);
  }

  async #ensureSession() {
    if (this.session) return;
    const asked = this.models.chosen ? { model: this.models.chosen } : {};
    this.#setSession(await this.#agent.call("create_session", asked));
  }

  /** Stop looking at the answer that is being written: it goes on, and is kept in its session. */
  #leave() {
    if (!this.#stop) return;
    this.#stop.left = true;
    this.#stop = null;
    this.onBusy(false);
    keepRunning(this.windowId, null);
  }

  // ---- history ----------------------------------------------------------------------------------
  async #history() {
    const asked = { session_id: this.session.id, limit: PAGE, order: "newest" };
    const page = await this.#agent.call("get_history", asked);
    const turns = await this.#turns(page.data);
    this.log.replaceChildren(...(turns.length ? turns : [this.empty]));
    this.#earlier(page.next_cursor);
    this.#follow(true);
  }

  #earlier(cursor) {
    this.log.querySelector(".earlier")?.remove();
    if (!cursor) return;
    const load = async () => {
      const asked = { session_id: this.session.id, limit: PAGE, order: "newest", cursor };
      const page = await this.#agent.call("get_history", asked);
      const height = this.log.scrollHeight;
      this.log.prepend(...(await this.#turns(page.data)));
      this.log.scrollTop += this.log.scrollHeight - height;
      this.#earlier(page.next_cursor);
    };
    this.log.prepend(
      h(
        "button",
        { type: "button", className: "plain earlier", onclick: load },
        "Show earlier messages",
      ),
    );
  }

  async #turns(newestFirst) {
    const turns = [];
    for (const message of newestFirst.toReversed()) {
      if (message.role === "user") turns.push(userTurn(textOfMessage(message)));
      if (message.role !== "assistant") continue;
      const answer = this.#turn();
      const found = await citationsOf(message.id);
      answer.page = found?.page;
      answer.restore(message, found);
      turns.push(answer.element);
    }
    return turns;
  }

  #setSession(session) {
    this.session = session;
    this.onSession(session);
  }

  #errorCard(error, again) {
    const button = h("button", { type: "button", className: "plain", onclick: again }, "Try again");
    return h(
      "div",
      { className: "card bad", role: "alert" },
      h("h3", {}, icon("warning"), error.problem?.title ?? "Something went wrong"),
      h("p", {}, error.message),
      h("div", { className: "buttons" }, button),
    );
  }

  /** Keep the end in sight, unless somebody reads further up. */
  #follow(always = false) {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    if (always || scrollHeight - scrollTop - clientHeight < 120) this.log.scrollTop = scrollHeight;
  }
}

function meta({ model, usage, timings }) {
  const parts = [model?.split("/").at(-1)];
  if (usage) parts.push(`${usage.completion_tokens} tokens`);
  if (timings?.predicted_per_second) parts.push(`${timings.predicted_per_second.toFixed(1)}/s`);
  return parts.filter(Boolean).join(" · ");
}

/** What is shown while nothing has been said. */
export function emptyState(starters) {
  return h(
    "div",
    { className: "empty" },
    h("img", { src: "icons/icon-128.png", alt: "" }),
    h("h2", {}, "What can I do for you?"),
    h("p", {}, "Everything runs on your own machine: nothing you ask leaves it."),
    h(
      "div",
      { className: "starters" },
      ...starters.map(([name, label, onclick]) =>
        h("button", { type: "button", onclick }, icon(name), label),
      ),
    ),
  );
}
