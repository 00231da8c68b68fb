// What has to happen while no panel is open: the menu, the button, and a selection on its way to
// the panel. It holds no connection: the panel has its own, so this worker may end at any moment.

import { keepTask } from "./panel/store.js";

const SUMMARISE = "summarise-selection";

chrome.runtime.onInstalled.addListener(() => {
  chrome.contextMenus.removeAll(() => {
    chrome.contextMenus.create({
      id: SUMMARISE,
      title: "Summarise the selection",
      contexts: ["selection"],
    });
  });
});

chrome.sidePanel.setPanelBehavior({ openPanelOnActionClick: true }).catch(console.error);

chrome.contextMenus.onClicked.addListener((info, tab) => {
  if (info.menuItemId !== SUMMARISE || !info.selectionText) return;
  // The panel may only be opened while the click is being handled: before anything is awaited.
  if (tab) chrome.sidePanel.open({ windowId: tab.windowId }).catch(console.error);
  keepTask({ text: info.selectionText, title: tab?.title ?? "", windowId: tab?.windowId });
});
