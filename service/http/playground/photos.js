// Where photos come from: files, the clipboard, the service's examples.

/** Decode a file for the screen; a format that the browser does not know has no bitmap. */
export async function openPhoto(blob, name) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    // The service may read it all the same.
  }
  return { blob, name, bitmap, width: bitmap?.width, height: bitmap?.height };
}

/** Call `take` with each image file that is dropped or pasted on the page. */
export function acceptPhotos(cover, take) {
  let depth = 0;
  const hide = () => { depth = 0; cover.hidden = true; };
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    cover.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (holdsFiles(event) && --depth <= 0) hide();
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    hide();
    takeAll(event.dataTransfer.files, take, event.target);
  });
  addEventListener("paste", (event) => takeAll(event.clipboardData?.files ?? [], take));
}

async function takeAll(files, take, target) {
  for (const file of files) await take(await openPhoto(file, file.name || "photo"), target);
}
