// A live call: microphone and camera to the server, its answers to the loudspeaker. Speaks OpenAI's Realtime API.
import { fromBase64, toBase64 } from "./api.js";

const RATE_HZ = 24000;
const FRAME_MS = 1000;
const FRAME_SIDE_PX = 512;
const HEARTBEAT_MS = 20000;

export class Call {
  // on: {state, level, heard, answer, cut, latency, error, ended, inLine}
  constructor(settings, on) {
    this.settings = settings;
    this.on = on;
    this.isMuted = false;
    this.timers = [];
    this.sentSamples = 0;
    this.gaps = 0;
  }

  async start() {
    this.on.state("connecting");
    this.context = new AudioContext({ sampleRate: RATE_HZ, latencyHint: "interactive" });
    await this.context.audioWorklet.addModule("capture.worklet.js");
    await this.context.audioWorklet.addModule("player.worklet.js");
    this.player = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.player.connect(this.context.destination);
    this.player.port.onmessage = ({ data }) => this.heardFromPlayer(data);
    this.microphone = await navigator.mediaDevices.getUserMedia({
      audio: {
        deviceId: this.settings.microphone || undefined, channelCount: 1,
        echoCancellation: true, noiseSuppression: true, autoGainControl: true,
      },
    });
    await this.connect();
    await this.context.resume();
    this.capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, channelCount: 1 });
    this.capture.port.onmessage = ({ data }) => this.sendSound(data);
    this.context.createMediaStreamSource(this.microphone).connect(this.capture);
    this.timers.push(setInterval(() => this.send({ type: "session.heartbeat" }), HEARTBEAT_MS));
    this.on.state("listening");
  }

  connect() {
    const url = new URL("v1/realtime", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const protocols = ["realtime", ...(this.settings.key ? [`openai-insecure-api-key.${this.settings.key}`] : [])];
    this.socket = new WebSocket(url, protocols);
    this.socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    this.socket.onclose = () => this.stop(this.isStopped ? undefined : "lost");
    return new Promise((resolve, reject) => {
      this.socket.onopen = () => {
        this.configure();
        resolve();
      };
      this.socket.onerror = () => reject(new Error("lost"));
    });
  }

  configure() {
    const output = this.settings.voice ? { voice: this.settings.voice } : {};
    const session = {
      type: "realtime", extra_body: { native_duplex: true },
      audio: { input: { transcription: {} }, output },
    };
    if (this.settings.instructions) session.instructions = this.settings.instructions;
    this.send({ type: "session.update", session });
  }

  send(event) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  sendSound({ buffer, loudest }) {
    this.on.level(this.isMuted ? 0 : loudest);
    const samples = this.isMuted ? new ArrayBuffer(buffer.byteLength) : buffer;
    this.sentSamples += buffer.byteLength / 2;
    this.send({ type: "input_audio_buffer.append", audio: toBase64(samples) });
  }

  async showCamera(video) {
    this.camera = await navigator.mediaDevices.getUserMedia({
      video: { deviceId: this.settings.camera || undefined, width: { ideal: 640 }, facingMode: "environment" },
    });
    video.srcObject = this.camera;
    await video.play();
    this.frames = setInterval(() => this.sendFrame(video), FRAME_MS);
    this.sendFrame(video);
  }

  hideCamera(video) {
    clearInterval(this.frames);
    for (const track of this.camera?.getTracks() || []) track.stop();
    video.srcObject = null;
    this.camera = null;
  }

  async sendFrame(video) {
    if (!video.videoWidth) return;
    const scale = Math.min(1, FRAME_SIDE_PX / Math.max(video.videoWidth, video.videoHeight));
    const canvas = new OffscreenCanvas(video.videoWidth * scale, video.videoHeight * scale);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
    this.send({ type: "input_audio_buffer.append", video_frames: [toBase64(await blob.arrayBuffer())] });
  }

  take(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.userStarted(event);
        break;
      case "input_audio_buffer.speech_stopped":
        this.stoppedAtMs = event.audio_end_ms;
        this.on.state("thinking");
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.on.heard(event.item_id, event.transcript);
        break;
      case "response.output_audio_transcript.delta":
        this.on.answer(event.item_id, event.delta);
        break;
      case "response.output_audio.delta":
        this.play(event);
        break;
      case "conversation.item.truncated":
        this.on.cut(event.item_id, event.transcript);
        break;
      case "response.done":
        this.responseDone(event.response);
        break;
      case "error":
        this.failed(event.error);
        break;
      case "session.closed":
        this.stop(event.reason === "timeout" ? "ended" : undefined);
        break;
      default:
    }
  }

  userStarted(event) {
    this.on.state("hearing");
    if (!this.playing) return;
    this.flushedFor = this.playing;
    this.bargeInMs = (1000 * this.sentSamples) / RATE_HZ - event.audio_start_ms;
    this.player.port.postMessage({ flush: true });
  }

  play(event) {
    if (event.item_id === this.flushedFor) return;
    const samples = fromBase64(event.delta);
    this.playing = event.item_id;
    this.player.port.postMessage({ id: event.item_id, samples }, [samples.buffer]);
  }

  responseDone(response) {
    const item = response.output[0];
    if (item && this.playing === item.id) this.player.port.postMessage({ end: item.id });
    else if (!this.playing) this.on.state("listening");
  }

  heardFromPlayer(told) {
    if (told.started) {
      this.on.state("speaking");
      if (this.stoppedAtMs !== undefined) this.on.latency(this.sinceSpeech());
      this.stoppedAtMs = undefined;
    }
    if (told.flushed) {
      this.flushed = told;
      this.playing = null;
      if (told.id) {
        this.send({ type: "conversation.item.truncate", item_id: told.id, content_index: 0, audio_end_ms: Math.round(told.playedMs) });
      }
    } else if (told.playedMs !== undefined) {
      this.send({ type: "playback.ack", audio_end_ms: Math.round(told.playedMs) });
    }
    this.gaps = told.gaps ?? this.gaps;
    if (told.over) {
      this.playing = null;
      this.on.state("listening");
    }
  }

  // From the last sound of the user's speech to now, by the clock of the samples that were sent.
  sinceSpeech() {
    return (1000 * this.sentSamples) / RATE_HZ - this.stoppedAtMs;
  }

  failed(error) {
    if (error.code === "session_limit_reached") this.on.inLine(error.position);
    else if (error.code !== "item_not_found") this.on.error(error.message);
  }

  mute(isMuted) {
    this.isMuted = isMuted;
  }

  stop(reason) {
    if (this.isStopped) return;
    this.isStopped = true;
    for (const timer of this.timers) clearInterval(timer);
    clearInterval(this.frames);
    for (const stream of [this.microphone, this.camera]) for (const track of stream?.getTracks() || []) track.stop();
    this.send({ type: "session.close" });
    this.socket?.close();
    this.context?.close();
    this.on.ended(reason);
  }
}
