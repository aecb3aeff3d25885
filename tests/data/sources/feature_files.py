"""Writes images' regions in every format the project reads, as their makers do."""

import base64
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adaptive_ft.data.records import ImageRecord
from adaptive_ft.errors import UserError

Write = Callable[[Path, Sequence[ImageRecord]], Path]


def encode(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def json_content(record: ImageRecord, **changes: Any) -> dict[str, Any]:
    """An image as VL-BERT stores it."""
    return {
        "image_w": record.width,
        "image_h": record.height,
        "num_boxes": len(record.boxes),
        "boxes": encode(record.boxes),
        "features": encode(record.features),
        **changes,
    }


def arrays(record: ImageRecord) -> dict[str, Any]:
    """An image as bottom-up-attention stores it in .npz, with the pickled extra nobody needs."""
    info = np.array({"objects_id": [1, 2]}, dtype=object)
    return {
        "x": record.features,
        "bbox": record.boxes,
        "num_bbox": len(record.boxes),
        "image_h": record.height,
        "image_w": record.width,
        "info": info,
    }


def write_tsv(folder: Path, records: Sequence[ImageRecord]) -> Path:
    path = folder / "obj36.tsv"
    with path.open("w") as file:
        for record in records:
            sizes = [record.image_id, str(record.height), str(record.width), "", "", "", "", str(len(record.boxes))]
            file.write("\t".join([*sizes, encode(record.boxes), encode(record.features)]) + "\n")
    return path


def write_json_folder(folder: Path, records: Sequence[ImageRecord]) -> Path:
    (folder / "genome").mkdir()
    for record in records:
        (folder / "genome" / f"{record.image_id}.json").write_text(json.dumps(json_content(record)))
    return folder / "genome"


def write_json_zip(folder: Path, records: Sequence[ImageRecord]) -> Path:
    with zipfile.ZipFile(folder / "genome.zip", "w") as archive:
        for record in records:
            archive.writestr(f"genome/{record.image_id}.json", json.dumps(json_content(record)))
        archive.writestr("__MACOSX/genome/._x.json", b"\x00")
    return folder / "genome.zip"


def write_npz_folder(folder: Path, records: Sequence[ImageRecord]) -> Path:
    (folder / "npz").mkdir()
    for record in records:
        np.savez(folder / "npz" / f"{record.image_id}.jpg.npz", **arrays(record))
    return folder / "npz"


def write_npz_transposed(folder: Path, records: Sequence[ImageRecord]) -> Path:
    (folder / "npz").mkdir()
    for record in records:
        np.savez(folder / "npz" / f"{record.image_id}.npz", **{**arrays(record), "x": record.features.T})
    return folder / "npz"


def write_npz_of_all(folder: Path, records: Sequence[ImageRecord]) -> Path:
    every = {f"{record.image_id}.jpg/{name}": array for record in records for name, array in arrays(record).items()}
    np.savez(folder / "all.npz", **every)
    return folder / "all.npz"


def write_npy_folder(folder: Path, records: Sequence[ImageRecord]) -> Path:
    (folder / "npy").mkdir()
    for record in records:
        np.save(folder / "npy" / f"{record.image_id}.npy", record.features)
        np.save(folder / "npy" / f"{record.image_id}_boxes.npy", record.boxes)
    return folder / "npy"


def write_hdf5_padded(folder: Path, records: Sequence[ImageRecord]) -> Path:
    most = max(len(record.boxes) for record in records)

    def padded(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, most - len(array)), (0, 0)), constant_values=np.nan)

    with h5py.File(folder / "padded.h5", "w") as file:
        file["features"] = np.stack([padded(record.features) for record in records])
        file["boxes"] = np.stack([padded(record.boxes) for record in records])
        file["num_boxes"] = [len(record.boxes) for record in records]
        _write_ids_and_sizes(file, records)
    return folder / "padded.h5"


def write_hdf5_packed(folder: Path, records: Sequence[ImageRecord]) -> Path:
    ends = np.cumsum([len(record.boxes) for record in records])
    with h5py.File(folder / "packed.hdf5", "w") as file:
        file["image_features"] = np.concatenate([record.features for record in records])
        file["image_bb"] = np.concatenate([record.boxes for record in records])
        file["pos_boxes"] = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
        _write_ids_and_sizes(file, records)
    return folder / "packed.hdf5"


def write_hdf5_groups(folder: Path, records: Sequence[ImageRecord]) -> Path:
    with h5py.File(folder / "groups.hdf5", "w") as file:
        for record in records:
            group = file.create_group(record.image_id)
            for name, array in arrays(record).items():
                if name != "info":
                    group[name] = array
    return folder / "groups.hdf5"


def _write_ids_and_sizes(file: Any, records: Sequence[ImageRecord]) -> None:
    file["image_ids"] = [f"{record.image_id}.jpg" for record in records]
    file["image_w"] = [record.width for record in records]
    file["image_h"] = [record.height for record in records]


WRITERS: dict[str, Write] = {
    "LXMERT TSV": write_tsv,
    "VL-BERT folder": write_json_folder,
    "VL-BERT zip": write_json_zip,
    "npz": write_npz_folder,
    "npz transposed": write_npz_transposed,
    "npz of all images": write_npz_of_all,
    "npy": write_npy_folder,
    "HDF5 padded": write_hdf5_padded,
    "HDF5 packed": write_hdf5_packed,
    "HDF5 groups": write_hdf5_groups,
}
TEXT = ("LXMERT TSV", "VL-BERT folder", "VL-BERT zip")  # base64 of float32 only


def told_of_damage(path: Path, read: Callable[[Path], object], step: int) -> list[str]:
    """The messages of `read` for the file with eight bytes turned over, at every `step`-th place in turn."""
    whole, messages = path.read_bytes(), []
    for place in range(0, len(whole), step):
        turned = bytes(255 - byte for byte in whole[place : place + 8])
        path.write_bytes(whole[:place] + turned + whole[place + 8 :])
        try:
            read(path)
        except UserError as error:
            messages.append(str(error))
    return messages
