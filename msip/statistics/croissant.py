"""Croissant metadata: which files there are, and what the manifest's columns mean (https://mlcommons.org/croissant)."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from msip.manifest import MANIFEST_NAME, SCHEMA, Manifest

_VOCABULARY = {
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_MEANINGS = {
    "image_id": "source and stem",
    "source": "the data set that the image comes from",
    "split": "of the source",
    "path": "of the stored image, relative to this file",
    "source_path": "of the frame inside the source as it was published",
    "sequence": "the sequence that the frame belongs to",
    "frame_index": "position in its sequence, before every how manieth was taken",
    "width": "pixels",
    "height": "pixels",
    "channels": "of the stored image",
    "bit_depth": "of the frame as it was published",
    "sha256": "of the stored image",
    "source_sha256": "of the frame as it was published",
    "transform": "what was done to the frame",
    "pixel_mean": "of the grey values, 0 to 1",
    "pixel_std": "of the grey values, 0 to 1",
    "phash": "perceptual hash",
    "licence": "of the source",
}


def croissant(manifest: Manifest, numbers: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a build as JSON-LD; columns that are lists (RoIs, flags) are in the Parquet file alone."""
    name = numbers["build"]["name"]
    terms = numbers["terms"]
    licences = list(dict.fromkeys(item.get("licence_url") or item["licence"] for item in terms.values()))
    citations = list(dict.fromkeys(item["citation"] for item in terms.values() if "citation" in item))
    return {
        "@context": {"@language": "en", "@vocab": "https://schema.org/", **_VOCABULARY},
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": f"{numbers['overall']['images']:,} infrared images of {', '.join(terms)}, one row each in "
        f"{MANIFEST_NAME}; terms differ by source, see the column licence and the data card.",
        "license": licences,
        **({"citeAs": "; ".join(citations)} if citations else {}),
        "version": f"1.0.0+{numbers['build']['manifest_sha256'][:12]}",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest",
                "name": "manifest",
                "contentUrl": MANIFEST_NAME,
                "encodingFormat": "application/x-parquet",
                "sha256": numbers["build"]["manifest_sha256"],
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": _fields()}],
    }


def _fields() -> list[dict[str, Any]]:
    return [
        {
            "@type": "cr:Field",
            "@id": f"images/{name}",
            "name": name,
            "description": meaning,
            "dataType": _data_type(SCHEMA.field(name).type),
            "source": {"fileObject": {"@id": "manifest"}, "extract": {"column": name}},
        }
        for name, meaning in _MEANINGS.items()
    ]


def _data_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "sc:Integer"
    return "sc:Float" if pa.types.is_floating(kind) else "sc:Text"
