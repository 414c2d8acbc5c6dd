// The camera: frame by frame, one request at a time.

const WIDTH = 640;
const SMOOTHING = 0.8;

export class Camera {
  #stream = null;
  #generation = 0;

  get isOn() {
    return this.#stream !== null;
  }

  /** Predict frames until the camera is stopped; throws if there is no camera or no permission. */
  async run(predict) {
    const generation = ++this.#generation;
    if (!navigator.mediaDevices) throw new Error("The camera needs HTTPS, or an address of this machine.");
    const wanted = { facingMode: "environment", width: { ideal: WIDTH } };
    this.#stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
    const video = document.createElement("video");
    Object.assign(video, { srcObject: this.#stream, muted: true, playsInline: true });
    await video.play();
    let seconds = null;
    while (this.#generation === generation && this.isOn) {
      const began = performance.now();
      await predict(await frameOf(video), seconds === null ? null : 1 / seconds);
      const spent = (performance.now() - began) / 1000;
      seconds = seconds === null ? spent : SMOOTHING * seconds + (1 - SMOOTHING) * spent;
    }
  }

  stop() {
    this.#generation += 1;
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
  }
}

async function frameOf(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  const { width, height } = canvas;
  return { blob, name: "camera.jpg", bitmap: canvas, width, height };
}
