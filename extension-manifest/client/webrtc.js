// A data channel to the server's own peer: for a server that is elsewhere, or where no port is open.

import { Conversation } from "./conversation.js";
import { failure } from "./error.js";

// A message has at most 262,144 bytes; in JSON within JSON a character takes at most three.
const MOST_CHARACTERS = 80_000;
const MOST_BUFFERED = 2 ** 20; // bytes on their way out
const SILENCE_MS = 35_000; // the server says something every ten seconds

export class WebRtcTransport {
  name = "webrtc";
  #opening = null;
  #peer = null;
  #conversation = null;

  /** `signalling` is a transport that the offer and the answer go over. */
  constructor({ signalling, token, iceServers = [], queue, tell = () => {} }) {
    this.signalling = signalling;
    this.token = token;
    this.iceServers = iceServers;
    this.queue = queue;
    this.tell = tell;
  }

  static available() {
    return typeof globalThis.RTCPeerConnection === "function";
  }

  async call(route, payload, options) {
    return (await this.#open(options.signal)).call(route, payload, options);
  }

  async *stream(route, payload, options) {
    yield* (await this.#open(options.signal)).stream(route, payload, options);
  }

  close(error = failure("closed")) {
    const [peer, conversation] = [this.#peer, this.#conversation];
    this.#peer = this.#conversation = this.#opening = null;
    conversation?.lose(error);
    peer?.close();
    this.signalling.close();
  }

  #open(signal) {
    this.#opening ??= this.#connect(signal).catch((error) => {
      this.close(error);
      throw error;
    });
    return this.#opening;
  }

  async #connect(signal) {
    const peer = (this.#peer = new RTCPeerConnection({ iceServers: this.iceServers }));
    const channel = peer.createDataChannel("tabagent");
    const opened = once(channel, "open", signal);
    opened.catch(() => {}); // told below, if we come so far
    await peer.setLocalDescription();
    // Our candidates are not waited for: the server learns where we are from our first packet.
    const { type, sdp } = peer.localDescription;
    const offer = { type, sdp, peer: "server" };
    const requestId = crypto.randomUUID();
    const { answer } = await this.signalling.call("webrtc_offer", offer, { signal, requestId });
    await peer.setRemoteDescription(answer);
    await opened;
    return this.#converse(peer, channel, signal);
  }

  async #converse(peer, channel, signal) {
    const outgoing = new Outgoing(channel);
    const conversation = new Conversation((_, text) => outgoing.send(text), {
      most: MOST_CHARACTERS,
      queue: this.queue,
      tell: this.tell,
    });
    this.#conversation = conversation;
    let heard = Date.now();
    const watch = setInterval(
      () => Date.now() - heard > SILENCE_MS && gone("it fell silent"),
      5000,
    );
    const gone = (why) => {
      clearInterval(watch);
      if (this.#conversation === conversation) this.close(failure("connection-lost", why));
    };
    channel.onmessage = ({ data }) => {
      heard = Date.now();
      conversation.receive(JSON.parse(data), data.length * 2);
    };
    channel.onclose = () => gone("the data channel was closed");
    peer.onconnectionstatechange = () =>
      ["failed", "closed"].includes(peer.connectionState) && gone("the peer is gone");
    const token = await this.token();
    const asked = { signal, requestId: crypto.randomUUID() };
    await conversation.call("auth", { token: token ?? "" }, asked);
    return conversation;
  }
}

/** What waits until the channel takes more: its own buffer throws when it is full. */
class Outgoing {
  #waiting = [];

  constructor(channel) {
    this.channel = channel;
    channel.bufferedAmountLowThreshold = MOST_BUFFERED / 2;
    channel.onbufferedamountlow = () => this.#drain();
  }

  send(text) {
    this.#waiting.push(text);
    this.#drain();
  }

  #drain() {
    while (this.#waiting.length && this.channel.bufferedAmount < MOST_BUFFERED) {
      this.channel.send(this.#waiting.shift());
    }
  }
}

function once(target, type, signal) {
  return new Promise((resolve, reject) => {
    target.addEventListener(type, resolve, { once: true });
    signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}
