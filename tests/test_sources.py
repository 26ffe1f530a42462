"""Listings of every source; archives come from a server on loopback."""

import io
import os
import re
import shutil
import tarfile
import tempfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import ROOT
from datasets import folder
from PIL import Image

from thaw import downloads
from thaw.config.schema import Columns, Dataset
from thaw.data.dataset import SOURCES, load_dataset
from thaw.data.sources import archive as archives
from thaw.data.sources.folder import listing
from thaw.errors import ThawError


@pytest.fixture
def load(tmp_path):
    return lambda dataset: load_dataset(dataset, 0, tmp_path / "store")


def sizes(found):
    return [len(split) for split in found.splits().values()]


def test_names_in_any_script_with_spaces_and_dots_and_endings_in_any_case(pictures, load):
    root = pictures({"Straße 1.5": 5, "猫": 5, "собака": 5, "قط": 5})
    (root / "猫" / "000.png").rename(root / "猫" / "a b.c.PNG")
    found = load(folder(root))
    assert found.class_names == ("Straße 1.5", "собака", "قط", "猫")
    assert sum(sizes(found)) == 20


def test_a_name_counts_as_the_same_however_it_is_composed(tmp_path):
    for number, name in enumerate(("é", "e\N{COMBINING ACUTE ACCENT}")):
        root = tmp_path / str(number)
        (root / name).mkdir(parents=True)
        (root / "a").mkdir()
        for place in (name, "a"):
            Image.new("L", (9, 9)).save(root / place / f"{name}.png")
    one, other = (listing(folder(tmp_path / each), tmp_path) for each in "01")
    assert (one.names, one.class_names) == (other.names, other.class_names)


def test_names_with_signs_that_join_letters_are_names(pictures, load):
    root = pictures({"می‌خواهم": 4, "柴　犬": 4})
    assert load(folder(root)).class_names == ("می‌خواهم", "柴　犬")


def test_training_and_testing_are_names_of_splits_too(pictures, load):
    root = pictures({f"{part}/{name}": 4 for part in ("Training", "Testing") for name in "ab"})
    assert sizes(load(folder(root))) == [6, 2, 8]


def test_splits_do_not_depend_on_the_order_of_a_folder(pictures, load, monkeypatch):
    root = pictures({"cat/real": 6, "dog": 6})
    (root / "cat/alias").symlink_to(root / "cat/real")
    first, scan = load(folder(root)).digest(), os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: reversed(list(scan(path))))
    assert load(folder(root)).digest() == first


@pytest.mark.parametrize("path", [None, "", "~nobody-of-that-name/x"])
def test_a_path_that_is_none_is_refused(load, path):
    with pytest.raises(ThawError, match=r"dataset.path( has no value|=~nobody)"):
        load(folder("x").model_copy(update={"path": path}))


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val", "VALIDATION"])
def test_the_folder_for_validation_may_have_several_names(pictures, load, word):
    root = pictures({f"{part}/{name}": 4 for part in ("Train", word, "TEST") for name in "ab"})
    assert sizes(load(folder(root))) == [8, 8, 8]


def test_what_is_hidden_or_put_there_by_a_system_is_passed_over(pictures, load):
    root = pictures({"cat": 4, "dog": 4, ".git": 3, "__MACOSX": 3, "cat/.thumbs": 2})
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (root / "cat" / name).write_text("x")
    (root / "LICENSE").write_text("x")
    assert sum(sizes(load(folder(root)))) == 8


def test_links_are_followed_but_in_no_circle(pictures, load):
    root = pictures({"cat": 4, "dog": 4, "elsewhere/more": 3})
    shutil.move(root / "elsewhere", root.parent / "elsewhere")
    (root / "cat/more").symlink_to(root.parent / "elsewhere")
    (root / "cat/again").symlink_to(root / "cat")
    (root.parent / "elsewhere/more/up").symlink_to(root.parent / "elsewhere")
    (root / "cat/everything").symlink_to(root)
    assert sum(sizes(load(folder(root)))) == 11


def test_links_that_lead_nowhere_are_named_and_left_out_when_asked(pictures, load):
    root = pictures({"cat": 4, "dog": 4})
    (root / "cat/self.png").symlink_to("self.png")
    (root / "cat/far.png").symlink_to("x" * 300)
    (root / "dog/circle").symlink_to("circle")
    (root / "bird").symlink_to("bird")
    found = load(folder(root, on_bad="skip"))
    assert sum(sizes(found)) == 8
    assert set(found.excluded) == {"cat/self.png", "cat/far.png", "dog/circle", "bird"}


@pytest.mark.parametrize("classes", [("cat", "dog"), ()])
def test_classes_below_a_folder_for_validation_alone_are_no_class(pictures, load, classes):
    root = pictures(dict.fromkeys((*classes, "val/cat", "val/dog"), 4))
    with pytest.raises(ThawError, match="has val but no train; name the folder of training images train"):
        load(folder(root))


def test_valid_and_invalid_are_classes_like_others(pictures, load):
    assert load(folder(pictures({"valid": 4, "invalid": 4}))).class_names == ("invalid", "valid")


@pytest.mark.parametrize("path", ["x" * 300, "/dev/null/x", "a\0b"])
def test_a_path_that_no_folder_can_have_is_refused(load, path):
    for source in (folder(path), labeled(path)):
        with pytest.raises(ThawError, match="dataset.path=.*(cannot be read|is not a folder|is not a table)"):
            load(source)


@pytest.mark.parametrize("path", ["/proc", "/proc/self/../1", "/sys/class", "link"])
def test_folders_of_the_system_are_refused(load, tmp_path, path):
    (tmp_path / "link").symlink_to("/proc")
    with pytest.raises(ThawError, match="is a system directory; choose a folder of images"):
        load(folder(tmp_path / path))


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
def test_a_dataset_in_memory_is_one_like_others(pictures, load):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        shutil.copytree(pictures({"cat": 4, "dog": 4}), f"{memory}/photos")
        assert sum(sizes(load(folder(f"{memory}/photos")))) == 8


def test_pictures_that_no_class_has_or_nothing_reads_are_named(pictures, load):
    root = pictures({"cat": 4, "dog": 4})
    for name in ("IMG_1.HEIC", "scan.tiff", "cat/scan.tif", "cat/notes.txt", "README"):
        (root / name).write_bytes(b"x")
    shutil.copy(root / "dog/000.png", root / "stray")
    (root / "dog/last.jfif").write_bytes((root / "dog/000.png").read_bytes()[:1000])
    found = load(folder(root, on_bad="skip")).excluded
    assert set(found) == {"IMG_1.HEIC", "scan.tiff", "stray", "cat/scan.tif", "cat/notes.txt", "dog/last.jfif"}
    assert found["scan.tiff"] == "belongs to no class"
    assert found["cat/scan.tif"].startswith("does not end in ")


def labeled(path, **changes):
    columns = Columns(image="file", label="class", split="split")
    return Dataset(source="table", path=str(path), columns=columns, **changes)


@pytest.fixture
def table(pictures):
    """A table of twelve pictures that lie beside it, by `lines` of its own."""
    root = pictures({"all": 12})

    def make(lines=None, header="file,class,split", name="labels.csv"):
        parts = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
        listed = [f"all/{n:03d}.png,{'cat' if n % 2 else 'dog'},{parts[n]}" for n in range(12)]
        (root / name).write_text("\n".join([header, *(lines or listed)]) + "\n", encoding="utf-8")
        return root / name

    return make


def test_a_table_says_which_image_has_which_label_and_split(table, load):
    found = load(labeled(table()))
    assert found.class_names == ("cat", "dog")
    assert sizes(found) == [6, 3, 3]
    assert found.name == "labels"


def test_a_table_without_splits_is_divided_and_may_lie_elsewhere(table, load, tmp_path):
    path = table([f"{n:03d}.png,{n % 2}" for n in range(12)], "file,class")
    found = load(labeled(shutil.move(path, tmp_path / "a.csv"), root=str(path.parent / "all")))
    assert found.class_names == ("0", "1")
    assert sizes(found) == [8, 2, 2]


def test_a_parquet_table_is_read_too(table, load):
    import pandas

    path = table()
    pandas.read_csv(path).to_parquet(path.with_suffix(".parquet"))
    assert load(labeled(path.with_suffix(".parquet"))).digest() == load(labeled(path)).digest()


def test_the_manifest_of_a_run_is_a_table_that_makes_the_same_splits(command, client, pictures, tmp_path, load):
    from conftest import TINY

    root = pictures({"cat": 8, "dog": 8})
    (root / "cat/broken.png").write_text("x")
    own = [each for each in TINY if "images_per_class" not in each]
    status, _, err = command(*own, "dataset=folder", f"dataset.path={root}", "dataset.on_bad=skip", "weights=random")
    assert status == 0, err
    (run,) = client().search_runs(["1"])
    manifest = client().download_artifacts(run.info.run_id, "manifest.csv", str(tmp_path))
    again = load(labeled(manifest, root=str(root), on_bad="skip"))
    first = load(folder(root, on_bad="skip"))
    for name, split in first.splits().items():
        assert split.digest == again.splits()[name].digest


@pytest.mark.parametrize(
    ("lines", "header", "words"),
    [
        (None, "path,class,split", "has no column file, only path, class, split; set dataset.columns.image=NAME"),
        (None, "file,klass,split", "did you mean klass?"),
        (["gone.png,cat,train"], "file,class,split", "row 2 (gone.png): does not exist"),
        (["all/000.png,,train"], "file,class,split", "row 2 (all/000.png): has no label"),
        ([",cat,train"], "file,class,split", "row 2: has no image"),
        (["all/000.png,cat,tset"], "file,class,split", "has a split other than train, val and test"),
        (["all/000.png,cat,train"] * 2, "file,class,split", "row 3 (all/000.png): is a repetition"),
        (
            ["./all/000.png,cat,train", "all/000.png,cat,train"],
            "file,class,split",
            "row 3 (all/000.png): is a repetition",
        ),
        (["all,cat,train"], "file,class,split", "row 2 (all): is not a regular file"),
        (["all/000.png,cat,train", "all/000.png,dog,train"], "file,class,split", "several times with different labels"),
        (["gone.png,cat,train", "gone.png,dog,train"], "file,class,split", "several times with different labels"),
        (["all/000.png,cat,train", "all/000.png,cat,test"], "file,class,split", "with different labels or splits"),
        (["all/000.png,cat,train", "", "gone.png,dog,test"], "file,class,split", "row 4 (gone.png): does not exist"),
        (
            ["all/000.png,cat,train", "all/001.png,dog,train", "all/002.png,cat,test", "all/003.png,dog,test"],
            "file,class,split",
            "has 1 different images in train, and needs 2 or more",
        ),
        (['all/000.png,"do\ng",train'], "file,class,split", "a class name with unprintable characters"),
        (["all/\0.png,cat,train"], "file,class,split", "has a name that no file can have"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(table, load, lines, header, words):
    with pytest.raises(ThawError) as refusal:
        load(labeled(table(lines, header)))
    assert words in str(refusal.value)


@pytest.mark.parametrize("name", ["gone.csv", "labels.txt", "all"])
def test_what_is_no_table_is_refused(table, load, name):
    path = table(name="labels.txt").parent / name
    with pytest.raises(ThawError, match="is not a table; give a .csv, .tsv or .parquet"):
        load(labeled(path))


def test_columns_that_differ_in_spaces_alone_are_refused(table, load):
    with pytest.raises(ThawError, match="has several columns class; rename or remove one"):
        load(labeled(table(["all/000.png,a,b"], "file,class, class")))


def test_the_file_of_a_parquet_row_may_be_its_index(table, load):
    import pandas

    path = table().with_suffix(".parquet")
    pandas.read_csv(path.with_suffix(".csv")).set_index("file").to_parquet(path)
    assert sizes(load(labeled(path))) == [6, 3, 3]


def test_splits_do_not_depend_on_where_the_images_of_a_table_lie(pictures, tmp_path, load):
    first = pictures({"a": 8, "b": 8})
    shutil.copytree(first, tmp_path / "elsewhere/deep")
    found = []
    for number, root in enumerate((first, tmp_path / "elsewhere/deep")):
        lines = [f"{path},{path.parent.name}\n" for path in sorted(root.rglob("*.png"))]
        (tmp_path / f"{number}.csv").write_text("file,class\n" + "".join(lines))
        found.append(load(labeled(tmp_path / f"{number}.csv")))
    assert found[0].test.names == found[1].test.names
    assert found[0].digest() == found[1].digest()


def manifest(found, root):
    """The table that a run records of a dataset."""
    lines = [
        f"{name},{found.class_names[label]},{part}\n"
        for part, split in found.splits().items()
        for name, label in zip(split.names, split.labels, strict=True)
    ]
    (root / "labels.csv").write_text("file,class,split\n" + "".join(lines))
    return root / "labels.csv"


def test_a_table_finds_files_whose_names_read_as_its_own_do(pictures, load):
    root = pictures({"a": 4, "b": 4})
    composed, apart = "k\N{LATIN SMALL LETTER A WITH DIAERESIS}", "ka\N{COMBINING DIAERESIS}"
    (root / " a").mkdir()
    (root / "a").rename(root / " a" / apart)
    (root / " a" / apart / "000.png").rename(root / " a" / apart / f"{composed}.png")
    (root / " a" / apart / "001.png").rename(root / " a" / apart / "x\ty.png")
    first = load(folder(root))
    assert load(labeled(manifest(first, root))).digest() == first.digest()


def test_a_manifest_finds_its_files_where_names_that_read_the_same_lie_side_by_side(pictures, tmp_path, load):
    root = pictures({"dog": 6, "e\N{COMBINING ACUTE ACCENT}": 6})
    (root / "\N{LATIN SMALL LETTER E WITH ACUTE}").mkdir()
    for number in (0, 2, 4):
        (root / "e\N{COMBINING ACUTE ACCENT}" / f"00{number}.png").rename(
            root / "\N{LATIN SMALL LETTER E WITH ACUTE}" / f"00{number}.png"
        )
    first = load(folder(root))
    assert load(labeled(manifest(first, root))).digest() == first.digest()


@pytest.mark.parametrize("before", ["sep=,\n", "\n\n", "SEP=,\n\n", "sep=;\r\n"])
def test_what_stands_before_the_header_is_passed_over_and_rows_keep_their_numbers(table, load, before):
    path = table()
    path.write_text(before + path.read_text().replace("all/001", "gone"))
    with pytest.raises(ThawError, match=rf"row {3 + before.count(chr(10))} \(gone.png\): does not exist"):
        load(labeled(path))


def test_a_table_that_is_not_utf_8_is_refused(table, load):
    path = table()
    path.write_bytes(path.read_bytes().replace(b"cat", b"k\xe4tzchen"))
    with pytest.raises(ThawError, match="it is not UTF-8; save it as UTF-8"):
        load(labeled(path))


def test_columns_that_nobody_asks_for_may_have_one_name(table, load):
    lines = [f"{line},a,b" for line in table().read_text().splitlines()[1:]]
    assert sizes(load(labeled(table(lines, "file,class,split,note,note")))) == [6, 3, 3]


def test_classes_that_look_the_same_are_refused(pictures, load):
    root = pictures({"cat": 4, "dog": 4, "cat\u200b": 4})
    with pytest.raises(ThawError, match="has a class name with unprintable characters; rename it"):
        load(folder(root))


def test_odd_cells_of_a_parquet_file_are_named_and_whole_numbers_stay_so(table, load):
    import pandas

    path = table().with_suffix(".parquet")
    frame = pandas.DataFrame(
        {"file": [f"all/{n:03d}.png" for n in range(12)], "class": [n % 2 for n in range(11)] + [None]}
    )
    frame["split"] = ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    frame.to_parquet(path)
    found = load(labeled(path, on_bad="skip"))
    assert found.class_names == ("0", "1")
    assert found.excluded == {"row 13 (all/011.png)": "has no label"}
    frame["class"] = [[n] for n in range(12)]
    frame.to_parquet(path)
    with pytest.raises(ThawError, match="has a cell that is neither text nor a number"):
        load(labeled(path))


def test_a_table_may_compose_names_otherwise_than_the_file_system(tmp_path, load):
    for name in ("a", "b"):
        for number in range(4):
            pixels = np.full((9, 9, 3), 20 * number + ord(name), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"e\N{COMBINING ACUTE ACCENT} {name}{number}.png")
    lines = [f"é {name}{number}.png,{name}\n" for name in "ab" for number in range(4)]
    (tmp_path / "labels.csv").write_text("file,class\n" + "".join(lines), encoding="utf-8-sig")
    assert sizes(load(labeled(tmp_path / "labels.csv"))) == [4, 2, 2]


def test_no_column_is_taken_for_an_index_where_rows_end_in_a_comma(table, load):
    first = load(labeled(table()))
    lines = [f"{line}," for line in table().read_text().splitlines()[1:]]
    assert load(labeled(table(lines))).digest() == first.digest()
    assert load(labeled(table(lines, "file,class,split,"))).digest() == first.digest()


def test_whole_numbers_of_a_parquet_file_stay_so_in_any_precision(table, load):
    import pandas

    path = table().with_suffix(".parquet")
    frame = pandas.read_csv(path.with_suffix(".csv"))
    frame["class"] = np.arange(12, dtype=np.float32) % 2
    frame.to_parquet(path)
    assert load(labeled(path)).class_names == ("0", "1")


def test_a_row_with_a_field_too_many_is_named(table, load):
    lines = table().read_text().splitlines()[1:]
    lines[2] += ",more"
    with pytest.raises(ThawError, match=r"row 4: has 4 fields, expected 3"):
        load(labeled(table(lines)))


@pytest.mark.parametrize(("separator", "name"), [(";", "a.csv"), ("\t", "a.tsv"), ("\t", "a.csv"), ("|", "a.csv")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_other_separators_and_the_text_of_excel_are_read(table, load, separator, name, encoding):
    path = table()
    text = path.read_text().replace(",", separator)
    path.with_name(name).write_text(text, encoding=encoding)
    assert load(labeled(path.with_name(name))).digest() == load(labeled(path)).digest()


def test_a_quote_without_an_end_is_refused_and_swallows_no_rows(table, load):
    lines = table().read_text().splitlines()[1:]
    lines[3] = '"' + lines[3]
    with pytest.raises(ThawError, match="cannot be read as a table"):
        load(labeled(table(lines)))


def test_rows_are_numbered_by_lines_where_cells_have_several(table, load):
    lines = [f"{line},note" for line in table().read_text().splitlines()[1:]]
    lines[0] = lines[0].replace("note", '"a\nnote"')
    lines[1] = lines[1].replace("all/001.png", "gone.png")
    with pytest.raises(ThawError, match=r"row 4 \(gone.png\): does not exist"):
        load(labeled(table(lines, "file,class,split,notes")))


def test_every_index_of_a_parquet_file_is_a_column(table, load):
    import pandas

    path = table().with_suffix(".parquet")
    pandas.read_csv(path.with_suffix(".csv")).set_index(["file", "class"]).to_parquet(path)
    assert sizes(load(labeled(path))) == [6, 3, 3]


def test_a_broken_parquet_file_is_refused(table, load):
    with pytest.raises(ThawError, match="cannot be read as a table"):
        load(labeled(table(name="a.parquet")))


@pytest.fixture
def server():
    """Serves `server.files` on loopback; of those in `server.broken` only the first half."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = server.files.get(self.path)
            server.asked.append(self.path)
            if content is None:
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.path in server.broken:
                server.broken.remove(self.path)
                content = content[: len(content) // 2]
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.broken, server.asked = {}, [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def archive(server, monkeypatch, tmp_path):
    """Serve an archive; the dataset that is in it."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def make(name, content, sha256=None):
        server.files[f"/{name}"] = content
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        return Dataset(source="archive", url=url, sha256=sha256, name="pets")

    return make


def packed(kind, extra=None):
    """An archive of two classes in two splits, below a folder of its own."""
    file = io.BytesIO()
    members = {}
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        for index in range(4):
            picture = io.BytesIO()
            pixels = np.random.default_rng([number, index]).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(picture, "PNG")
            members[f"pets/{place}/{index}.png"] = picture.getvalue()
    members |= extra or {}
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(fileobj=file, mode="w:gz" if kind == "tgz" else "w") as opened:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                opened.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_what_is_in_an_archive_may_be_called_as_folders_of_ours_are(archive, load):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed("zip"))) as whole, zipfile.ZipFile(file, "w") as renamed:
        for name in whole.namelist():
            renamed.writestr(name.replace("pets/", "archive/"), whole.read(name))
    assert sizes(load(archive("pets.zip", file.getvalue()))) == [6, 2, 8]


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_an_archive_is_downloaded_and_unpacked_once(archive, server, load, kind):
    import hashlib

    content = packed(kind)
    dataset = archive(f"pets.{kind}", content, hashlib.sha256(content).hexdigest())
    assert [sizes(load(dataset)) for _ in range(2)] == [[6, 2, 8]] * 2
    assert server.asked == [f"/pets.{kind}"]


def test_a_download_that_breaks_off_is_begun_anew_by_the_next_command(archive, server, load):
    dataset = archive("pets.zip", packed("zip"))
    server.broken.append("/pets.zip")
    with pytest.raises(ThawError, match="cannot be downloaded .*; give the command again"):
        load(dataset)
    assert sizes(load(dataset)) == [6, 2, 8]


def test_a_process_that_died_while_unpacking_leaves_nothing_that_is_trusted(archive, load, monkeypatch):
    from thaw import archives

    dataset, unpack = archive("pets.zip", packed("zip")), archives.unpack

    def dies(path, url, place):
        unpack(path, url, place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(archives, "unpack", dies)
        with pytest.raises(KeyboardInterrupt):
            load(dataset)
    assert sizes(load(dataset)) == [6, 2, 8]


@pytest.mark.parametrize(
    ("content", "sha256", "words"),
    [
        (packed("zip"), "0" * 64, "hash does not match"),
        (packed("zip")[:900], None, "is damaged, or not a zip or tar file"),
        (packed("tgz")[:900], None, "is damaged, or not a zip or tar file"),
        (b"<html>not here</html>", None, "is damaged, or not a zip or tar file"),
        (packed("tar")[:1536], None, "is damaged, or not a zip or tar file"),  # behind the first of its files
        (
            packed("tar").replace(b"pets/test/a/1.png", b"pets/test/a/X.png"),
            None,
            "is damaged, or not a zip or tar file",
        ),
        (
            packed("tgz")[:-8] + bytes(8),
            None,
            "is damaged, or not a zip or tar file",
        ),  # another checksum than that of its content
        (packed("zip").replace(b"IDAT", b"IDAX", 1), None, "is damaged, or not a zip or tar file"),
        (packed("zip", {"../outside.png": b"x"}), None, "would write ../outside.png outside"),
        (packed("zip", {"/outside.png": b"x"}), None, "would write /outside.png"),
        (packed("tgz", {"../outside.png": b"x"}), None, "would write ../outside.png outside"),
    ],
)
def test_a_bad_archive_is_refused_and_leaves_nothing(archive, load, tmp_path, content, sha256, words):
    with pytest.raises(ThawError) as refusal:
        load(archive("pets.bin", content, sha256))
    assert words in str(refusal.value)
    assert not list(tmp_path.rglob("outside.png"))
    assert not [each for each in (tmp_path / "keras/datasets").iterdir() if each.name.startswith("pets")
                and not each.name.endswith(".lock")]  # fmt: skip


@pytest.mark.parametrize(
    "url", ["http://[::1/x.zip", "http://127.0.0.1:many/x.zip", "http://ann:s3cret@127.0.0.1/x.zip", "pets.zip", "ab:x"]
)
def test_what_is_no_address_is_refused_without_its_password(archive, load, url):
    with pytest.raises(ThawError, match="cannot be used; give https://HOST/FILE") as refusal:
        load(archive("pets.zip", b"").model_copy(update={"url": url}))
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["file:///dev/zero", "file:///tmp", "file:///no/such/file.zip"])
def test_what_is_no_file_is_refused_at_once(archive, load, url):
    with pytest.raises(ThawError, match="is not a regular file; expected the address of a zip or tar file"):
        load(archive("pets.zip", b"").model_copy(update={"url": url}))


def test_a_download_without_an_end_is_given_up_and_leaves_nothing(archive, load, monkeypatch, tmp_path):
    monkeypatch.setattr(downloads, "LARGEST", 1000)
    with pytest.raises(ThawError, match="cannot be downloaded .*it exceeds 1e-06 GB"):
        load(archive("pets.zip", packed("zip")))
    assert not list((tmp_path / "keras/datasets").glob("*pets*/"))


def test_a_signed_address_is_shown_nowhere_and_its_file_is_known_under_another_signature(archive, server, load):
    dataset = archive("pets.zip", packed("zip"))
    server.files |= {f"/pets.zip?sig={number}": packed("zip") for number in (1, 2)}
    for number in (1, 2):
        load(dataset.model_copy(update={"url": f"{dataset.url}?sig={number}"}))
    assert server.asked == ["/pets.zip?sig=1"]
    with pytest.raises(ThawError, match=r"sig=\*\*\* cannot be downloaded"):
        load(dataset.model_copy(update={"url": f"{dataset.url}?other=1&sig=3"}))


def test_other_hosts_and_queries_are_other_files():
    urls = ["http://a:8080/@v1/x.zip", "http://b:8080/@v1/x.zip", "http://a/x.zip?user=1", "http://a/x.zip?user=2"]
    assert len({archives._folder(url, None) for url in urls}) == 4
    signed = [f"http://a/x.zip?id=1&X-Amz-Signature={number}&X-Amz-Date={number}" for number in (1, 2)]
    assert len({archives._folder(url, None) for url in signed}) == 1


def test_an_archive_may_have_a_long_name(archive, load):
    assert sizes(load(archive(f"{'p' * 300}.zip", packed("zip")))) == [6, 2, 8]


def test_a_cache_that_cannot_be_written_is_named(archive, load, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", "/dev/null/keras")
    with pytest.raises(ThawError, match="/dev/null/keras/.* cannot be written .*; set KERAS_HOME"):
        load(archive("pets.zip", packed("zip")))


def test_an_address_without_a_server_or_a_file_is_said_to_be_one(archive, load):
    dataset = archive("pets.zip", b"")
    for url in (dataset.url.replace("pets", "cats"), "http://127.0.0.1:9/a.zip"):
        with pytest.raises(ThawError, match="cannot be downloaded"):
            load(dataset.model_copy(update={"url": url}))


@pytest.fixture
def prepared(tmp_path):
    """Write a TensorFlow dataset of so many training and test images; what is to be loaded."""
    import tensorflow as tf

    tfds = pytest.importorskip("tensorflow_datasets")

    def examples(first, last, label_of):
        pixels = [np.random.default_rng(n).integers(0, 256, (20, 20, 3), np.uint8) for n in range(first, last)]
        return tf.data.Dataset.from_tensor_slices({"image": pixels, "label": [label_of(n) for n in range(first, last)]})

    def make(train=10, label_of=lambda n: n % 2, **features):
        known = {
            "image": tfds.features.Image(shape=(20, 20, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
        shutil.rmtree(tmp_path / "tfds", ignore_errors=True)
        tfds.dataset_builders.store_as_tfds_dataset(
            name="pets",
            version="1.0.0",
            features=tfds.features.FeaturesDict(known | features),
            split_datasets={"train": examples(0, train, label_of), "test": examples(train, train + 6, label_of)},
            data_dir=tmp_path / "tfds",
        )
        return Dataset(source="tfds", path=str(tmp_path / "tfds"), name="pets")

    return make


def test_a_tensorflow_dataset_is_read_from_its_folder_and_anew_when_it_is_another(load, prepared):
    dataset = prepared()
    found = load(dataset)
    assert found.class_names == ("cat", "dog")
    assert sizes(found) == [8, 2, 6]
    assert load(dataset).digest() == found.digest()
    assert sum(sizes(load(prepared(20)))) == 26


def test_an_example_without_a_label_is_of_no_class(load, prepared):
    dataset = prepared(12, lambda n: -1 if n == 3 else n % 2)
    with pytest.raises(ThawError, match=r"1 entries that cannot be used:\n  row \d+ \(train-.*\): has no label"):
        load(dataset)
    assert sum(sizes(load(dataset.model_copy(update={"on_bad": "skip"})))) == 17


def test_a_tensorflow_dataset_of_other_things_or_cut_off_is_refused(load, prepared, tmp_path):
    import tensorflow_datasets as tfds

    several = prepared(
        label_of=lambda n: [n % 2], label=tfds.features.Sequence(tfds.features.ClassLabel(num_classes=2))
    )
    with pytest.raises(ThawError, match="pets has no usable label feature"):
        load(several)
    numbers = prepared(image=tfds.features.Tensor(shape=(20, 20, 3), dtype=np.uint8))
    with pytest.raises(ThawError, match="pets has no usable image feature"):
        load(numbers)
    dataset = prepared()
    (part,) = (tmp_path / "tfds").rglob("*train.tfrecord*")
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ThawError, match="pets cannot be read in"):
        load(dataset)


def test_a_tensorflow_dataset_that_is_not_there_is_said_to_be_so(load, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(ThawError, match="dataset.name=no_such_thing cannot be loaded"):
        load(Dataset(source="tfds", path=str(tmp_path), name="no_such_thing"))


def test_every_source_has_a_yaml_and_every_yaml_a_source():
    import yaml

    found = {yaml.safe_load(path.read_text()).get("source") for path in (ROOT / "conf/dataset").glob("*.yaml")}
    assert found - {None} == set(SOURCES)


def test_a_source_of_ones_own_is_a_module_as_the_readme_has_it(pictures, load, monkeypatch):
    text = (ROOT / "README.md").read_text()
    (source,) = re.findall(r"```python\n(.*?)```", text, re.S)
    scope = {}
    exec(source, scope)
    root = pictures({"all": 12}, ending="jpg")
    for number, path in enumerate(sorted((root / "all").iterdir())):
        path.rename(root / "all" / f"{'mug' if number % 2 else 'jar'}_{number}.jpg")
    monkeypatch.setitem(SOURCES, "shelves", scope["listing"])
    found = load(Dataset(source="shelves", path=str(root / "all")))
    assert found.class_names == ("jar", "mug")
    assert sizes(found) == [8, 2, 2]


def test_an_unknown_source_is_answered_with_those_that_are_known(load):
    with pytest.raises(ThawError, match=r"dataset.source=tabel is not known; .*did you mean table\?"):
        load(Dataset(source="tabel"))


def counted(dataset):
    return {name: len(split) for name, split in dataset.splits().items()}


def test_a_lone_validation_folder_is_the_test_split_and_that_is_said(pictures, load):
    root = pictures({"train/cat": 10, "train/dog": 10, "val/cat": 4, "val/dog": 4})
    found = load(folder(root))
    assert counted(found) == {"train": 16, "validation": 4, "test": 8}
    assert {name.partition("/")[0] for name in found.test.names} == {"val"}
    assert (
        "There is no test split: the validation images are used for testing, and new validation images are held out"
        in found.summary
    )


def test_a_lone_validation_folder_may_be_kept_for_validation(pictures, load):
    root = pictures({"train/cat": 10, "train/dog": 10, "validation/cat": 4, "validation/dog": 4})
    found = load(folder(root, layout="validation"))
    assert counted(found) == {"train": 16, "validation": 8, "test": 4}
    assert {name.partition("/")[0] for name in found.validation.names} == {"validation"}
    assert "test images are divided from train" in found.summary


def test_train_alone_is_divided(pictures, load):
    found = load(folder(pictures({"train/cat": 20, "train/dog": 20})))
    assert counted(found) == {"train": 28, "validation": 6, "test": 6}
    assert "train is divided" in found.summary


@pytest.mark.parametrize(
    "names", [("Train", "TEST"), ("images/train", "images/test"), ("data/Training", "data/Testing")]
)
def test_folders_of_splits_are_found_in_any_case_and_one_level_down(pictures, load, names):
    train, test = names
    root = pictures({f"{train}/cat": 4, f"{train}/dog": 4, f"{test}/cat": 3, f"{test}/dog": 3})
    (root / "labels").mkdir()
    (root / "labels" / "000.txt").write_text("0 0.5 0.5 1 1")
    found = load(folder(root))
    assert found.class_names == ("cat", "dog")
    assert counted(found) == {"train": 6, "validation": 2, "test": 6}


def test_all_images_may_be_divided_anew(pictures, load):
    root = pictures({"train/cat": 10, "train/dog": 10, "test/cat": 10, "test/dog": 10})
    found = load(folder(root, layout="pooled"))
    assert counted(found) == {"train": 28, "validation": 6, "test": 6}
    assert {name.partition("/")[0] for name in found.train.names} == {"train", "test"}


def test_classes_may_be_called_like_splits(pictures, load):
    root = pictures({"train/steam": 4, "car/small": 4})
    assert load(folder(root, layout="classes")).class_names == ("car", "train")


def test_a_folder_of_images_is_a_class_whatever_it_is_called(pictures, load):
    assert load(folder(pictures({"train": 4, "car": 4}))).class_names == ("car", "train")


def test_a_table_with_validation_rows_alone_is_taken_alike(table, load):
    lines = [f"all/{number:03d}.png,{name},{'val' if number > 9 else 'train'}"
             for number, name in enumerate(("cat", "dog") * 6)]  # fmt: skip
    found = load(labeled(table(lines, "file,class,split")))
    assert counted(found)["test"] == 2
    assert "the validation images are used for testing" in found.summary


@pytest.mark.parametrize("layout", ["pooled", "classes"])
def test_the_splits_of_a_table_do_not_count_where_it_is_divided_anew(table, load, layout):
    lines = [f"all/{number:03d}.png,{number % 2},{('train', 'none', '')[number % 3]}" for number in range(12)]
    assert sum(sizes(load(labeled(table(lines), layout=layout)))) == 12
