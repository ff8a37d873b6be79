"""Write the archives of this folder, expected.json and the table in README.md.

Run it with NumPy 2 on CPython 3.11: newer versions of ``zipfile`` refuse more archives. The archives have a fixed date,
so another run writes the same bytes. The expected contents of each archive come from ``zipfile`` and NumPy, never from
mmnpz. `DEPARTURES` says where mmnpz must read an archive in another way, and why.
"""

import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

FOLDER = Path(__file__).parent
UTF8 = 1 << 11
SATURATED = 0xFFFFFFFF

# The quirk of each archive, for the README. `archive` fills this.
QUIRKS = {}

# The archives that mmnpz reads in another way than zipfile.
DEPARTURES = {
    "comment_with_signature.npz": {
        "error": None,
        "names": ["a", "b"],
        "why": "zipfile takes the signature in the comment for the end record; the one in front of it is sound",
    },
    "comment_ends_in_signature.npz": {
        "error": None,
        "names": ["a", "b"],
        "why": "as above, with a record cut short by the end of the file",
    },
    "zip64_end_with_data.npz": {
        "error": None,
        "names": ["a", "b"],
        "why": "zipfile does not know the extensible data sector of the zip64 end record, APPNOTE 4.3.14.2 does",
    },
    "name_not_utf8.npz": {
        "error": "BadZipFile",
        "why": "zipfile lets UnicodeDecodeError through, a ValueError that does not tell what is wrong with the file",
    },
}


def archive(file, quirk):
    """Register the function that returns the bytes of an archive."""

    def register(function):
        QUIRKS[file] = quirk, function
        return function

    return register


def saved(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


A = np.arange(3, dtype="<i2")
B = np.array([[1.5, -2.0]], dtype="<f4")
ARRAYS = {"a.npy": saved(A), "b.npy": saved(B)}


# Archives that zipfile writes.


class Unseekable(io.BytesIO):
    """A stream without `seek`, like a pipe: zipfile writes data descriptors to it."""

    def seekable(self):
        return False

    def seek(self, *_):
        raise OSError

    def tell(self):
        raise OSError


def zipped(members, *, comment=b"", compressed=(), out=None, force_zip64=False):
    out = io.BytesIO() if out is None else out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicate names
        with zipfile.ZipFile(out, "w") as file:
            for number, (name, data) in enumerate(members):
                info = zipfile.ZipInfo(name)
                info.compress_type = zipfile.ZIP_DEFLATED if number in compressed else zipfile.ZIP_STORED
                with file.open(info, "w", force_zip64=force_zip64) as member:
                    member.write(data)
            file.comment = comment
    return out.getvalue()


# Archives that zipfile does not write: the records of APPNOTE, field by field.


def extra(kind, value):
    return struct.pack("<HH", kind, len(value)) + value


def zip64_extra(*numbers):
    return extra(1, struct.pack(f"<{len(numbers)}Q", *numbers))


class Member:
    def __init__(self, name, data, **fields):
        self.name = self.local_name = name if isinstance(name, bytes) else name.encode()
        self.data = data
        self.flags = self.local_flags = fields.pop("flags", 0)
        self.method = fields.pop("method", 0)
        self.size = self.compressed = len(data)
        self.extra = self.local_extra = self.comment = self.gap = b""
        self.offset = None
        assert fields.keys() <= vars(self).keys(), fields
        vars(self).update(fields)

    def common(self, flags, name, extra):
        crc = zlib.crc32(self.data)
        sizes = self.compressed, self.size
        return struct.pack("<5H3I2H", 20, flags, self.method, 0, 33, crc, *sizes, len(name), len(extra))

    def local(self):
        common = self.common(self.local_flags, self.local_name, self.local_extra)
        return b"PK\3\4" + common + self.local_name + self.local_extra + self.data

    def central(self, offset):
        offset = offset if self.offset is None else self.offset
        common = self.common(self.flags, self.name, self.extra)
        rest = struct.pack("<3H2I", len(self.comment), 0, 0, 0, offset)
        return b"PK\1\2\x14\0" + common + rest + self.name + self.extra + self.comment


def end_record(count, size, offset, comment=b""):
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, offset, len(comment)) + comment


def zip64_end(count, size, offset, *, data=b"", disks=1):
    record = (
        struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44 + len(data), 45, 45, 0, 0, count, count, size, offset) + data
    )
    return record + struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, disks)


def built(members, *, end=None):
    """Return an archive of these members; ``end(count, size, offset)`` returns its end records."""
    body, directory = b"", b""
    for member in members:
        body += member.gap
        directory += member.central(len(body))
        body += member.local()
    return body + directory + (end or end_record)(len(members), len(directory), len(body))


def two(**fields):
    """Return an archive of the members a and b; the arguments change fields of b."""
    return [Member("a.npy", ARRAYS["a.npy"]), Member("b.npy", ARRAYS["b.npy"], **fields)]


def with_header(text, version=1, data=b"\1\0\2\0\3\0"):
    """Return an archive of one array that has this .npy header."""
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return zipped([("a.npy", npy.MAGIC_PREFIX + bytes([version, 0]) + length + text + data)])


GOOD = b"{'descr': '<i2', 'fortran_order': False, 'shape': (3,), }\n"

# Places of members, and names.

archive("plain.npz", "nothing odd: as `np.savez` writes it")(lambda: zipped(ARRAYS.items()))
archive("empty.npz", "no members")(lambda: zipped([]))
archive("folders.npz", "names with folders, and an entry for a folder")(
    lambda: zipped([("sub/", b""), ("sub/a.npy", ARRAYS["a.npy"]), ("a.npy", ARRAYS["a.npy"])])
)
archive("not_only_arrays.npz", "members that are no arrays")(
    lambda: zipped([("readme.txt", b"hello"), *ARRAYS.items(), ("c.npy.txt", b""), ("npy", b"")])
)
archive("name_empty.npz", "a member that is all extension")(lambda: zipped([(".npy", ARRAYS["a.npy"])]))
archive("name_utf8.npz", "a name beyond ASCII, flagged as UTF-8")(
    lambda: zipped([("日ü.npy", ARRAYS["a.npy"])])
)
archive("name_cp437.npz", "a name in code page 437")(
    lambda: built([Member(b"\x81\xe3.npy", ARRAYS["a.npy"])])
)
archive("name_utf8_unflagged.npz", "a name in UTF-8 without the flag: read as code page 437")(
    lambda: built([Member("ü.npy", ARRAYS["a.npy"])])
)
archive("name_flag_in_directory.npz", "a UTF-8 name that only the directory flags")(
    lambda: built([Member("ü.npy", ARRAYS["a.npy"], flags=UTF8, local_flags=0)])
)
archive("name_nul.npz", "names that end at a NUL")(
    lambda: built([Member(b"a.npy\0.txt", ARRAYS["a.npy"]), Member(b"b.txt\0.npy", ARRAYS["b.npy"])])
)
archive("name_not_utf8.npz", "a name flagged as UTF-8 that is not")(
    lambda: built([Member(b"\xff.npy", ARRAYS["a.npy"], flags=UTF8)])
)
archive("comment.npz", "an archive comment")(lambda: zipped(ARRAYS.items(), comment=b"a comment"))
archive("comment_with_signature.npz", "a comment with the signature of an end record")(
    lambda: zipped(ARRAYS.items(), comment=b"see PK\5\6 in APPNOTE, section 4.3.16")
)
archive("comment_ends_in_signature.npz", "a comment that ends in the signature of an end record")(
    lambda: zipped(ARRAYS.items(), comment=b"ends in PK\5\6")
)
archive("junk_in_front.npz", "bytes in front of the archive that its offsets do not count")(
    lambda: b"#!/bin/sh\nexit 0\n" + zipped(ARRAYS.items())
)
archive("junk_behind.npz", "bytes behind the archive")(lambda: zipped(ARRAYS.items()) + b"\0" * 40)
archive("front_lost.npz", "bytes in front of the first member lost: all offsets too large")(
    lambda: built([Member("a.npy", ARRAYS["a.npy"], gap=b"\0" * 64)])[32:]
)
archive("gap.npz", "bytes between the members that belong to none")(
    lambda: built(two(gap=b"PK\3\4 no member"))
)
archive("member_comments.npz", "comments of members")(
    lambda: built(two(comment=b"a comment with PK\1\2 in it"))
)
archive("extra_fields.npz", "extra fields in both headers, not the same")(
    lambda: built(two(extra=extra(0x5455, b"\3time"), local_extra=extra(0xA11E, b"\x40\0" + b"\0" * 30)))
)
archive("data_descriptor.npz", "sizes behind the data, as zipfile writes to a pipe")(
    lambda: zipped(ARRAYS.items(), out=Unseekable())
)
archive("wrong_count.npz", "an end record with the wrong number of members")(
    lambda: built(two(), end=lambda count, size, offset: end_record(7, size, offset))
)

# Several members with the same name.

archive("duplicate.npz", "two members with one name")(
    lambda: zipped([("a.npy", ARRAYS["a.npy"]), ("b.npy", ARRAYS["b.npy"]), ("a.npy", ARRAYS["b.npy"])])
)
archive("duplicate_last_compressed.npz", "two members with one name, the last is compressed")(
    lambda: zipped([("a.npy", ARRAYS["a.npy"]), *ARRAYS.items()], compressed=[1])
)
archive("duplicate_last_stored.npz", "two members with one name, the first is compressed")(
    lambda: zipped([("a.npy", ARRAYS["b.npy"]), ("a.npy", ARRAYS["a.npy"])], compressed=[0])
)
archive("compressed.npz", "all members compressed")(lambda: zipped(ARRAYS.items(), compressed=[0, 1]))
archive("mixed.npz", "one member compressed")(lambda: zipped(ARRAYS.items(), compressed=[0]))

# Zip64.


def all_saturated(*, data=b""):
    def end(count, size, offset):
        return zip64_end(count, size, offset, data=data) + end_record(0xFFFF, SATURATED, SATURATED)

    return end


def zip64_member(name):
    data = ARRAYS[name]
    sizes = len(data), len(data)
    fields = {"size": SATURATED, "compressed": SATURATED, "offset": SATURATED}
    return Member(name, data, local_extra=zip64_extra(*sizes), extra=zip64_extra(*sizes, 0), **fields)


archive("zip64_local.npz", "zip64 fields in the local headers, as `np.savez` writes them")(
    lambda: zipped(ARRAYS.items(), force_zip64=True)
)
archive("zip64_everywhere.npz", "zip64 in every record")(
    lambda: built([zip64_member("a.npy")], end=all_saturated())
)
archive("zip64_end.npz", "zip64 end records with the only true numbers")(
    lambda: built(two(), end=all_saturated())
)
archive("zip64_end_junk_in_front.npz", "zip64 end records behind an archive with bytes in front")(
    lambda: b"junk" + built(two(), end=all_saturated())
)
archive("zip64_end_with_data.npz", "a zip64 end record with extensible data")(
    lambda: built(two(), end=all_saturated(data=b"further data"))
)
archive("zip64_missing.npz", "a saturated size, and a zip64 field too short for it")(
    lambda: built(two(size=SATURATED, extra=extra(1, b"\0" * 7)))
)
archive("zip64_disks.npz", "a zip64 locator that speaks of two disks")(
    lambda: built(
        two(),
        end=lambda count, size, offset: (
            zip64_end(count, size, offset, disks=2) + end_record(count, size, offset)
        ),
    )
)

# Archives and members that zipfile cannot read.

archive("single.npz", "an .npy file with the wrong extension")(lambda: ARRAYS["a.npy"])
archive("nothing.npz", "no bytes")(lambda: b"")
archive("end_cut.npz", "the last byte is missing")(lambda: zipped(ARRAYS.items())[:-1])
archive("directory_outside.npz", "a directory larger than the file")(
    lambda: built(two(), end=lambda count, size, offset: end_record(count, 9999, offset))
)
archive("directory_signature.npz", "a record of the directory with another signature")(
    lambda: zipped(ARRAYS.items()).replace(b"PK\1\2", b"PK\1\3")
)
archive("directory_cut.npz", "a directory that ends inside a record")(
    lambda: built(two(), end=lambda count, size, offset: b"PK\1\2 cut" + end_record(count, size + 8, offset))
)
archive("local_outside.npz", "an offset past the end of the file")(lambda: built(two(offset=5000)))
archive("local_signature.npz", "an offset at which there is no local header")(lambda: built(two(offset=1)))
archive("names_differ.npz", "another name in the local header")(lambda: built(two(local_name=b"c.npy")))
archive("data_outside.npz", "a size that reaches past the end of the file")(
    lambda: built(two(size=5000, compressed=5000))
)
archive("encrypted.npz", "a member flagged as encrypted")(lambda: built(two(flags=1)))
archive("encrypted_strongly.npz", "a member flagged as strongly encrypted")(
    lambda: built(two(flags=1 | 1 << 6))
)
archive("patched.npz", "a member flagged as compressed patched data")(lambda: built(two(flags=1 << 5)))

# Headers of arrays.

archive("npy_version_2.npz", "format version 2.0")(lambda: with_header(GOOD, 2))
archive("npy_version_3.npz", "format version 3.0, with a field name beyond Latin-1")(
    lambda: zipped([("a.npy", saved(np.zeros(2, [("日", "<i2"), ("b", "<f8")])))])
)
archive("npy_version_4.npz", "a format version that there is not")(lambda: with_header(GOOD, 4))
archive("npy_magic.npz", "no magic string")(lambda: zipped([("a.npy", b"not an array")]))
archive("npy_cut.npz", "a header cut short")(lambda: zipped([("a.npy", ARRAYS["a.npy"][:60])]))
archive("npy_no_bytes.npz", "a member without a byte")(lambda: zipped([("a.npy", b"")]))
archive("npy_python2.npz", "a shape as Python 2 wrote it")(
    lambda: with_header(GOOD.replace(b"(3,)", b"(3L,)"))
)
archive("npy_fortran.npz", "Fortran order")(
    lambda: zipped([("a.npy", saved(np.asfortranarray(np.eye(3, 2))))])
)
archive("npy_big_endian.npz", "big-endian numbers")(lambda: zipped([("a.npy", saved(A.astype(">i2")))]))
archive("npy_scalar.npz", "no dimensions")(lambda: zipped([("a.npy", saved(np.float64(3)))]))
archive("npy_no_items.npz", "a dimension of 0")(lambda: zipped([("a.npy", saved(np.zeros((3, 0, 2))))]))
archive("npy_object.npz", "an object array")(lambda: zipped([("a.npy", saved(np.array([None, 1])))]))
archive("npy_trailing.npz", "bytes behind the array")(lambda: zipped([("a.npy", ARRAYS["a.npy"] + b"more")]))
archive("npy_short.npz", "fewer bytes than the shape needs")(
    lambda: zipped([("a.npy", ARRAYS["a.npy"][:-1])])
)
archive("npy_shape_overflow.npz", "a shape of 2**64 items")(
    lambda: with_header(GOOD.replace(b"(3,)", b"(4294967296, 4294967296)"))
)
archive("npy_key_unknown.npz", "a key too many")(lambda: with_header(GOOD.replace(b", }", b", 'more': 1}")))
archive("npy_key_missing.npz", "a key too few")(
    lambda: with_header(GOOD.replace(b"'fortran_order': False, ", b""))
)
archive("npy_not_literal.npz", "a header that is code")(
    lambda: with_header(GOOD.replace(b"(3,)", b"tuple([3])"))
)
archive("npy_shape_list.npz", "a shape that is a list")(lambda: with_header(GOOD.replace(b"(3,)", b"[3]")))


def read_array(data):
    """Return what NumPy reads from an .npy file, or how far it gets before it fails."""
    file = io.BytesIO(data)
    try:
        version = npy.read_magic(file)
        read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read_header is None:
            file.seek(0)
            array = npy.read_array(file)
            shape, fortran_order, dtype = array.shape, False, array.dtype
        else:
            shape, fortran_order, dtype = read_header(file)
    except Exception as error:
        return {"refused": "header", "exception": type(error).__name__}
    found = {
        "shape": shape,
        "fortran_order": fortran_order,
        "descr": repr(npy.dtype_to_descr(dtype)),
        "itemsize": dtype.itemsize,
    }
    try:
        file.seek(0)
        npy.read_array(file)
    except Exception as error:
        stage = "dtype" if dtype.hasobject else "array"
        return {"refused": stage, "exception": type(error).__name__, **found}
    return found


def expectation(data):
    """Return what zipfile and NumPy read from an archive."""
    try:
        file = zipfile.ZipFile(io.BytesIO(data))
    except Exception as error:
        return {"error": type(error).__name__}
    found = {"error": None, "names": [], "arrays": {}}
    # Of several members with one name, getinfo returns the last.
    for member in dict.fromkeys(file.namelist()):
        info = file.getinfo(member)
        if not member.endswith(".npy"):
            continue
        name = member[: -len(".npy")]
        found["names"].append(name)
        try:
            content = file.read(info)
        except Exception as error:
            found["arrays"][name] = {"refused": "zip", "exception": type(error).__name__}
        else:
            found["arrays"][name] = {"crc": zlib.crc32(content), **read_array(content)}
            if info.compress_type != zipfile.ZIP_STORED:
                found["arrays"][name]["compressed"] = True
    return found


def main():
    warnings.simplefilter("ignore", UserWarning)  # NumPy warns about headers that Python 2 wrote
    expected = {}
    rows = ["| Archive | What is odd about it | Names |", "|---|---|---|"]
    for file, (quirk, make) in sorted(QUIRKS.items()):
        data = make()
        (FOLDER / file).write_bytes(data)
        entry = expected[file] = expectation(data)
        if file in DEPARTURES:
            entry["mmnpz"] = DEPARTURES[file]
        ours = {**entry, **entry.get("mmnpz", {})}
        names = ", ".join(f"`{name}`" if name else "(empty)" for name in ours.get("names", []))
        rows.append(f"| `{file}` | {quirk} | {ours['error'] or names or 'none'} |")
    for stale in {path.name for path in FOLDER.glob("*.npz")} - expected.keys():
        (FOLDER / stale).unlink()
    text = json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True)
    (FOLDER / "expected.json").write_text(text + "\n", encoding="utf-8")
    readme = FOLDER / "README.md"
    head = re.split(r"^\| Archive ", readme.read_text(encoding="utf-8"), maxsplit=1, flags=re.MULTILINE)[0]
    readme.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
