// The page in the tab: reading it, putting it into a collection, and marking what is cited.

import { highlightPassage, readPage, whereAmI } from "./in_page.js";
import { TabAgentError } from "../client/tabagent.js";

export const COLLECTION = "pages";
const PASSAGE = "tabagent-passage";
const SENTENCE = "tabagent-sentence"; // of the passage: what the answer rests on most
const STYLE = `::highlight(${PASSAGE}) { background-color: #fff0b3; color: #1b1b1b; }
::highlight(${SENTENCE}) { background-color: #ffd43b; color: #1b1b1b; }`;
const MOST_CHARACTERS = 20 * 2 ** 20;

/** The tab that is looked at in this window, if it is no page of our own. */
export async function activeTab() {
  const [tab] = await chrome.tabs.query({ active: true, currentWindow: true });
  return tab?.url?.startsWith(location.origin) ? null : (tab ?? null);
}

/**
 * What the tab shows. A click on the extension's button lets it in; when the person has moved on
 * since, the browser is asked for this site alone.
 */
export async function capture(tab) {
  const page = await run(tab.id, readPage).catch(async (error) => {
    if (!(await allowed(tab))) throw unreadable(error);
    return run(tab.id, readPage).catch((again) => {
      throw unreadable(again);
    });
  });
  if (page.html.length > MOST_CHARACTERS) throw unreadable(new Error("the page is too large"));
  return { ...page, tabId: tab.id };
}

async function allowed(tab) {
  const origin = tab.url && /^https?:/.test(tab.url) ? `${new URL(tab.url).origin}/*` : null;
  if (!origin) return false;
  return chrome.permissions.request({ origins: [origin] }).catch(() => false);
}

function unreadable(error) {
  return new TabAgentError(
    {
      code: "page-not-readable",
      status: 403,
      title: "This page cannot be read",
      detail:
        "The browser does not let an extension read this page yet. Click TabAgent's button in the " +
        "toolbar while the page is open, then ask again. Pages of the browser itself and of the " +
        "extension store are closed to every extension.",
      retryable: true,
    },
    { cause: error },
  );
}

async function run(tabId, func, ...args) {
  const [{ result }] = await chrome.scripting.executeScript({ target: { tabId }, func, args });
  return result;
}

/** Put the page where it can be searched. Tells `progress` how far that is; returns its id. */
export async function push(agent, page, { signal, progress = () => {} } = {}) {
  await ensureCollection(agent, signal);
  const web = /^https?:\/\//.test(page.url);
  const document = { title: (page.title || page.url).slice(0, 300), html: page.html };
  document[web ? "url" : "source"] = page.url;
  const asked = { collection: COLLECTION, documents: [document] };
  let job = null;
  for await (job of agent.stream("add_documents", asked, { signal })) progress(job);
  if (job?.failures?.length) throw new TabAgentError(job.failures[0].problem);
  const found = await agent.call(
    "list_documents",
    { collection: COLLECTION, search: page.url.slice(-500), limit: 50 },
    { signal },
  );
  const mine = found.data.find(({ source }) => source === page.url);
  if (!mine) throw unreadable(new Error("it was not taken in"));
  return mine.id;
}

async function ensureCollection(agent, signal) {
  const { data } = await agent.call("collections", {}, { signal });
  if (data.some(({ name }) => name === COLLECTION)) return;
  const description = "Pages that were asked about in the browser";
  await agent
    .call("create_collection", { name: COLLECTION, description }, { signal })
    .catch((error) => {
      if (error.code !== "conflict") throw error; // another window was first
    });
}

/** Show a passage in its tab; in a new one, where that tab has gone on to another page. */
export async function showPassage({ tabId, url, text, claim }) {
  if (tabId !== undefined && (await isAt(tabId, url))) {
    await chrome.scripting.insertCSS({ target: { tabId }, css: STYLE });
    const found = await run(tabId, highlightPassage, text, claim ?? "", PASSAGE, SENTENCE);
    await chrome.tabs.update(tabId, { active: true });
    return found;
  }
  if (!/^https?:\/\//.test(url)) return false;
  const words = text
    .replace(/[#*_`|>[\]]/g, " ")
    .trim()
    .split(/\s+/)
    .slice(0, 8)
    .join(" ");
  await chrome.tabs.create({
    url: `${url}#:~:text=${encodeURIComponent(words).replaceAll("-", "%2D")}`,
  });
  return true;
}

async function isAt(tabId, url) {
  try {
    return (await run(tabId, whereAmI)) === url;
  } catch {
    return false;
  }
}
