"""CSV files that describe images: which rows are taken, which are left out by name, and which files are refused."""

import csv
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from images.table import NAMED, Images, as_is, class_name, first_level, label_rule, table_images
from tests.conftest import write_image
from utils import UserError


@pytest.fixture
def folder(tmp_path):
    """Images (empty files): a.png, b.jpg, ant/1.png, ant/2.JPG, bee/1.png."""
    for name in ("a.png", "b.jpg", "ant/1.png", "ant/2.JPG", "bee/1.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return tmp_path / "images"


@pytest.fixture
def read(tmp_path, folder, caplog):
    """Reads a table; gives {image: class}, in the order of the rows, and what was said of the rows left out."""

    def read(content, image="image", label="label", rule="as_is", encoding="utf-8"):
        path = tmp_path / "t.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        caplog.clear()
        rows = list(table_images(path, folder, image, label, rule))
        assert all(file == folder / name or file.name == name for _, name, file in rows)
        assert all(file.is_file() for _, _, file in rows)
        assert all(message.isprintable() for message in caplog.messages)
        return {name: label for label, name, _ in rows}, caplog.messages

    return read


# --- what is read ----------------------------------------------------------------------------------------------------

TWO = {"a.png": "x", "b.jpg": "y"}


@pytest.mark.parametrize("content", [
    "image,label\na.png,x\nb.jpg,y\n",
    "image;label\na.png;x\nb.jpg;y",
    "image\tlabel\r\na.png\tx\r\nb.jpg\ty\r\n",
    "label,image\nx,a.png\ny,b.jpg\n",
    'id,label,"image",more\n1,x,a.png,\n2,y,b.jpg,z\n',
    '"with, many, commas";image;label\n1;a.png;x\n2;b.jpg;y\n',
    '"with; many; semicolons",image,label\n1,a.png,x\n2,b.jpg,y\n',
    '"two\nlines",image,label\n1,a.png,x\n2,b.jpg,y\n',
    "image , label\n a.png , x \n\n b.jpg,y\n\n",
    '\ufeffimage,label\n"a.png","x"\n"b.jpg","y"\n',
    "image,label\na.png,x\nb.jpg,y\na.png,x\n./a.png,x\n",
    "image,label,\na.png,x,,\nb.jpg,y\n",
])  # fmt: skip
def test_spellings_of_one_table(read, content):
    assert read(content) == (TWO, [])


def test_cells_with_quotes_marks_and_lines(read, folder):
    (folder / 'q",\n.png').touch()
    assert read('image,label\n"q"",\n.png","Home, ""Garden""\n& more"\n')[0] == {'q",\n.png': "home_garden_and_more"}


def test_the_order_is_that_of_the_rows(read):
    rows, _ = read("image,label\nbee/1.png,x\na.png,y\nant/1.png,x\n")
    assert list(rows) == ["bee/1.png", "a.png", "ant/1.png"]


def test_an_image_keeps_the_name_of_its_first_row(read):
    assert read("image,label\nant/2.JPG,x\n2.JPG,x\na.png,y\n")[0] == {"ant/2.JPG": "x", "a.png": "y"}
    assert read("image,label\n2.JPG,x\nant/2.JPG,x\na.png,y\n")[0] == {"2.JPG": "x", "a.png": "y"}


def test_a_large_cell(read):
    limit = csv.field_size_limit()
    assert read(f"image,text,label\na.png,{'x' * 200_000},x\nb.jpg,,y\n") == (TWO, [])
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(("cell", "image"), [
    ("ant/1.png", "ant/1.png"),
    ("./ant//1.png", "ant/1.png"),
    ("ant/../a.png", "a.png"),
    ("{folder}/a.png", "a.png"),
    ("2.JPG", "ant/2.JPG"),  # only one image has this name
    ("2", "ant/2.JPG"),
    ("ant/2", "ant/2.JPG"),
    ("b", "b.jpg"),
])  # fmt: skip
def test_how_a_cell_may_name_an_image(folder, cell, image):
    name, path = Images(folder).find(cell.format(folder=folder))
    assert path == image
    assert name == (image if (folder / cell).exists() else image.split("/")[-1])


def test_the_present_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert Images(Path()).find("2") == ("2.JPG", "ant/2.JPG")


MISSING, SHARED = "no image of that name", "a file name that several images share"
UNFIT = "a file that is hidden or not an image by its name"


@pytest.mark.parametrize(("cell", "reason"), [
    ("c.png", MISSING), ("", MISSING), (".", MISSING), ("ant", MISSING), ("a.jpg", MISSING),
    ("../images/a.png/x", MISSING), ("/etc/passwd", MISSING), ("../secret.png", MISSING),
    ("a.png\0", MISSING), ("n" * 300, MISSING), ("n/" * 3000, MISSING), ("http://x/a.png", MISSING),
    ("1.png", SHARED), ("1", SHARED),
    ("notes.txt", UNFIT), (".hidden.png", UNFIT), (".git/x.png", UNFIT), ("@eaDir/x.png", UNFIT), ("photo", UNFIT),
])  # fmt: skip
def test_cells_that_name_no_image(folder, cell, reason):
    for name in ("../secret.png", "notes.txt", ".hidden.png", ".git/x.png", "@eaDir/x.png", "photo"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    with pytest.raises(LookupError, match=f"^{reason}$"):
        Images(folder).find(cell)


# --- rows that are left out ------------------------------------------------------------------------------------------


def test_rows_are_left_out_by_name_and_reason(read, folder):
    (folder / "notes.txt").touch()
    rows, said = read(
        "image,label\na.png,x\nb.jpg,y\nbee/1.png\nc\x1b.png,x\nd.png,x\n1.png,y\nnotes.txt,y\n,x\nant/1.png, !? \n"
    )
    assert rows == TWO
    assert said == [
        't.csv: left out 2 rows with no label in "label": line 4, line 10',
        "t.csv: left out 3 rows with no image of that name: c\\x1b.png (line 5), d.png (line 6),  (line 9)",
        "t.csv: left out 1 row with a file name that several images share: 1.png (line 7)",
        "t.csv: left out 1 row with a file that is hidden or not an image by its name: notes.txt (line 8)",
    ]


def test_many_rows_are_counted(read):
    rows, said = read("image,label\na.png,x\n" + "".join(f"{n}.gif,x\n" for n in range(1200)))
    assert rows == {"a.png": "x"}
    assert said[0].startswith("t.csv: left out 1,200 rows with no image of that name: 0.gif (line 3), ")
    assert said[0].endswith(f"{NAMED - 1}.gif (line {NAMED + 2}), and 1190 more")


# --- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "empty": ("", 't.csv: has no column "image"$'),
    "no such column": ("picture,label\n", 't.csv: has no column "image"; choose from label, picture'),
    "misspelt column": ("images,label\n", 't.csv: has no column "image"; did you mean "images"?'),
    "other case": ("Image,label\n", 'has no column "image"; did you mean "Image"?'),
    "hostile column": ("image,l\x1babel\n", r'has no column "label"; did you mean "l\\x1babel"?'),
    "column twice": ("image,label,label\na.png,x,y\n", 't.csv: has two columns "label"'),
    "more cells than columns": ("image,label\na.png,Home, Garden\n", "t.csv:2: has 3 cells, the first line 2"),
    "open quote": ('image,label\n"a.png,x\nb.jpg,y\n', "t.csv:3: is not a line of CSV .unexpected end of data"),
    "text behind a quote": ('image,label\n"a.png"z,x\n', "t.csv:2: is not a line of CSV"),
    "open quote in the first line": ('"image,label\n', "t.csv:1: is not a line of CSV"),
    "latin-1": ("image,label\na.png,\udce9\n".encode("utf-8", "surrogateescape"), "t.csv: is not a CSV file in UTF-8"),
    "utf-16": ("image,label\na.png,x\n".encode("utf-16"), "t.csv: is not a CSV file in UTF-8"),
    "two classes": ("image,label\na.png,x\nb.jpg,x\n./a.png,y\n", "t.csv:4: a.png is y here and x before"),
    "two classes by two names": ("image,label\nant/2.JPG,x\n2.JPG,y\n", "t.csv:3: ant/2.JPG is y here and x before"),
    "two labels, one folder": (
        "image,label\na.png,Cat\x07\nb.jpg,cat!\n",
        r't.csv:3: the labels "Cat\\x07" and "cat!" both become cat; make them one, or tell them apart',
    ),
    "no image": ("image,label\nc.png,x\n", "t.csv: no row names an image in .*/images; see --image_column and --imag"),
    "only a first line": ("image,label\n", "t.csv: no row names an image in "),
}


@pytest.mark.parametrize("what", REFUSED)
def test_tables_that_are_refused(read, what):
    content, message = REFUSED[what]
    with pytest.raises(UserError, match=message) as caught:
        read(content)
    assert str(caught.value).isprintable()


def test_a_table_that_cannot_be_opened(tmp_path, folder):
    with pytest.raises(UserError, match=r"^none\.csv: cannot be read \(No such file or directory\)"):
        list(table_images(tmp_path / "none.csv", folder, "image", "label", "as_is"))
    with pytest.raises(UserError, match=r"^images: cannot be read \(Is a directory\)"):
        list(table_images(folder, folder, "image", "label", "as_is"))


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "name"), [
    ("Home Decor & Festive Needs", "home_decor_and_festive_needs"),
    ("7", "7"), ("T-shirt/Top", "t_shirt_top"), ("  __x__y  ", "x_y"), ("R&B", "r_and_b"),
    ("Straße", "straße"), ("Ελλάδα", "ελλάδα"), ("日本", "日本"), ("हिन्दी", "हिन्दी"), ("caf\u00e9", "caf\u00e9"),
    ("../../etc", "etc"), ("..", ""), (".hidden", "hidden"), ("a\0b\nc\x1b[2J", "a_b_c_2j"), ("", ""), ("!?", ""),
])  # fmt: skip
def test_class_names(label, name):
    assert class_name(label) == name


@given(st.text())
def test_a_class_name_is_a_plain_folder_name(label):
    name = class_name(label)
    assert "/" not in name
    assert "\0" not in name
    assert not name.startswith((".", "_"))
    assert name.isprintable()


@given(st.text(string.ascii_letters + string.digits + " _-&", max_size=20))
def test_a_class_name_stays_when_it_is_made_again(label):
    assert class_name(class_name(label)) == class_name(label)


def test_accents_of_two_spellings_are_one_label(read):
    assert read("image,label\na.png,caf\u00e9\nb.jpg,cafe\u0301\n")[0] == {"a.png": "caf\u00e9", "b.jpg": "caf\u00e9"}


@pytest.mark.parametrize(("rule", "cell", "label"), [
    ("as_is", " Cat ", "Cat"),
    ("first_level", '["Home Furnishing >> Curtains >> Elegance"]', "Home Furnishing"),
    ("first_level", "Watches|Wrist", "Watches"),
    ("first_level", "['Baby Care']", "Baby Care"),
    ("first_level", " >> x", ""),
    ("regex:", "x", ""),
    ("regex:[a-z]+", "12abc34def", "abc"),
    ("regex:^([A-Z]+)_", "CAT_001", "CAT"),
    ("regex:(x)|y", "y", ""),
    ("regex:z", "abc", ""),
])  # fmt: skip
def test_label_rules(rule, cell, label):
    assert label_rule(rule)(cell) == label


def test_the_named_rules_are_functions_of_their_own():
    assert (label_rule("as_is"), label_rule("first_level")) == (as_is, first_level)


@pytest.mark.parametrize(("rule", "message"), [
    ("first", '"first" is not a known label rule; did you mean "first_level".+ or regex:PATTERN'),
    ("regex:(", r"--label_rule regex:\(: not a regular expression \(missing \)"),
])  # fmt: skip
def test_rules_that_are_refused(rule, message):
    with pytest.raises(UserError, match=message):
        label_rule(rule)


def test_a_table_with_a_rule(read):
    rows, _ = read(
        'f,tree\na.png,"[""Home & Garden >> Pots""]"\nb.jpg,"[""Toys >> Cars""]"\n', "f", "tree", "first_level"
    )
    assert rows == {"a.png": "home_and_garden", "b.jpg": "toys"}


# --- a shop's table --------------------------------------------------------------------------------------------------

SHOP = (  # the columns of Flipkart's products, with what makes them hard to read: quotes, commas and lines in cells
    "uniq_id,crawl_timestamp,product_url,product_name,product_category_tree,pid,retail_price,discounted_price,image,"
    "is_FK_Advantage_product,description,product_rating,overall_rating,brand,product_specifications\n"
)
PRODUCTS = [
    (
        "a1",
        "Home Furnishing >> Curtains & Accessories >> Curtains >> Elegance Polyester Multicolor Abstract Eyelet Do...",
    ),
    ("b2", "Baby Care >> Baby Bath & Skin >> Baby Bath Towels >> Sathiyas"),
    ("c3", 'Home Decor & Festive Needs >> Showpieces >> Ethnic >> Brass ""Hanuman""'),
    ("d4", "Home Furnishing >> Bed Linen >> Bedsheets"),
]


def shop_table(*products):
    return SHOP + "".join(
        f'{key},2016-04-30 03:22:56 +0000,http://shop/{key}?pid=X,"Towel, red",'
        f'"[""{tree}""]",PID,999.0,,{key}.jpg,False,'
        f'"Key Features of it\nPrice: Rs. 899, ""soft""\n",No rating available,No rating available,,'
        '"{""product_specification""=>[{""key""=>""Brand"", ""value""=>""X""}]}"\n'
        for key, tree in products
    )


@pytest.mark.parametrize(
    ("rule", "classes"),
    [
        ("first_level", ["home_furnishing", "baby_care", "home_decor_and_festive_needs", "home_furnishing"]),
        ('regex:>> ([^>"]+)', ["curtains_and_accessories", "baby_bath_and_skin", "showpieces", "bed_linen"]),
    ],
)
def test_a_shops_table_gives_its_classes_by_a_level_of_the_tree(tmp_path, caplog, rule, classes):
    for key, _ in PRODUCTS:
        write_image(tmp_path / "Images" / f"{key}.jpg")
    (tmp_path / "shop.csv").write_text(shop_table(*PRODUCTS, ("gone", "Watches >> Wrist Watches"), ("lost", "Watches")))
    found = list(table_images(tmp_path / "shop.csv", tmp_path / "Images", "image", "product_category_tree", rule))
    assert {path.name: label for label, _, path in found} == {
        f"{key}.jpg": label for (key, _), label in zip(PRODUCTS, classes, strict=True)
    }
    assert "shop.csv: left out" in caplog.text
    assert "gone.jpg (line 16)" in caplog.text
