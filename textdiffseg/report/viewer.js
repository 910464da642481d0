"use strict";
(async function () {
  const at = (id) => document.getElementById(id);
  const data = JSON.parse(at("viewer-data").textContent);
  const state = at("viewer-state");
  const viewer = new niivue.Niivue({
    dragAndDropEnabled: false, isRadiologicalConvention: true, isResizeCanvas: true, loadingText: "",
    backColor: [0, 0, 0, 1], crosshairColor: [1, 0.83, 0.3, 0.6], crosshairWidth: 0.5, crosshairWidthUnit: "percent", crosshairGap: 4,
    sagittalNoseLeft: true, show3Dcrosshair: true, logLevel: "error",
  });
  const axes = { 0: 2, 1: 1, 2: 0 }; // view -> axis of the slider (x, y, z)

  // A label map's colours: a number gets the colour of the last visible label that it belongs to.
  function colours(white) {
    const mix = (one) => Math.round(one + white * (255 - one));
    const map = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    const seen = new Map();
    data.labels.forEach((label, place) => label.numbers.forEach((number) => {
      const shown = at("label-" + place).checked;
      if (shown || !seen.has(number)) seen.set(number, { colour: label.colour, shown });
    }));
    [...seen.keys()].sort((a, b) => a - b).forEach((number) => {
      const { colour, shown } = seen.get(number);
      map.R.push(mix(colour[0])); map.G.push(mix(colour[1])); map.B.push(mix(colour[2]));
      map.A.push(shown ? 255 : 0); map.I.push(number); map.labels.push("");
    });
    return map;
  }

  function paint() {
    viewer.volumes.forEach((volume) => {
      if (volume.name !== "scan") volume.setColormapLabel(colours(volume.name === "reference" ? 0.65 : 0));
      volume.opacity = at("layer-" + volume.name).checked ? (volume.name === "scan" ? 1 : 0.55) : 0;
    });
    viewer.updateGLVolume();
  }

  let turn = 0; // the number of the last choice of a case: older ones stop loading

  async function show(place) {
    const wanted = data.cases[place];
    const own = ++turn;
    const loaded = [];
    for (const name of Object.keys(wanted.volumes)) {
      const volume = await niivue.NVImage.loadFromBase64({ base64: wanted.volumes[name], name: name + ".nii.gz", colormap: "gray" });
      if (own !== turn) return;
      volume.name = name;
      if (name === "scan") { volume.cal_min = 0; volume.cal_max = 255; }
      loaded.push(volume);
    }
    viewer.volumes.slice().forEach((volume) => viewer.removeVolume(volume));
    loaded.forEach((volume) => viewer.addVolume(volume));
    paint();
    wanted.cross.forEach((fraction, axis) => { viewer.scene.crosshairPos[axis] = fraction; });
    viewer.drawScene();
    viewer.createOnLocationChange();
  }

  // The slider follows the cross, and the cross follows the slider, along the axis that the view cuts.
  function settle() {
    const axis = axes[at("viewer-view").value];
    at("viewer-slice").disabled = axis === undefined;
    if (axis !== undefined) at("viewer-slice").value = Math.round(1000 * viewer.scene.crosshairPos[axis]);
  }

  function move() {
    viewer.scene.crosshairPos[axes[at("viewer-view").value]] = at("viewer-slice").value / 1000;
    viewer.drawScene();
    viewer.createOnLocationChange();
  }

  try {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser offers no WebGL 2");
    await viewer.attachToCanvas(at("viewer-canvas"));
    viewer.onLocationChange = (place) => {
      state.textContent = "x, y, z in mm: " + Array.from(place.mm).slice(0, 3).map((one) => one.toFixed(1)).join(", ");
      settle();
    };
    await show(0);
    at("viewer-case").onchange = (event) => show(Number(event.target.value)).catch((error) => {
      state.textContent = "This case cannot be shown: " + error.message;
    });
    at("viewer-view").onchange = (event) => { viewer.setSliceType(Number(event.target.value)); settle(); };
    at("viewer-slice").oninput = move;
    document.querySelectorAll(".controls input[type=checkbox]").forEach((box) => { box.onchange = paint; });
    viewer.setMultiplanarLayout(niivue.MULTIPLANAR_TYPE.GRID);
    viewer.setSliceType(3);
    document.body.dataset.viewer = "ready";
  } catch (error) {
    state.textContent = "The viewer could not start: " + error.message;
    document.body.dataset.viewer = "failed";
  }
})();
