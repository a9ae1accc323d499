"""The image's inputs: which of the host's apt sources machines are made from."""

from __future__ import annotations

import pytest
from saltern.errors import SalternError
from saltern.local import image

DEBIAN = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg"""

MORE = DEBIAN.replace("main", "main contrib non-free-firmware")
WITH_KEY = f"{DEBIAN.rsplit(' ', 1)[0]} \n -----BEGIN PGP\n .\n mQINBF\n -----END PGP"


def sources(*texts: str, name: str = "debian.sources") -> str:
    return image.apt_sources([(name, text) for text in texts], "bookworm")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (DEBIAN, DEBIAN),
        (f"# a comment\n{DEBIAN}\n# another", DEBIAN),
        (DEBIAN.replace("Types: deb", "Types: deb deb-src"), DEBIAN),
        (DEBIAN.replace("Types", "types").replace("Suites", "SUITES"), DEBIAN),
        (f"Enabled: yes\n{DEBIAN}", DEBIAN),
        # Cloud images of Debian and Ubuntu name backports in the same stanza.
        (DEBIAN.replace("-updates", "-updates bookworm-backports"), DEBIAN),
        (
            DEBIAN.replace("Suites: bookworm bookworm-updates", "Suites:\n bookworm\n bookworm-updates"),
            DEBIAN,
        ),
        (MORE, MORE),
        (DEBIAN.replace("Signed-By", "Architectures: amd64\nSigned-By"), DEBIAN),
        # A key may stand in the file itself.
        (WITH_KEY, WITH_KEY),
        (f"{DEBIAN}\n\n{DEBIAN}\n", DEBIAN),
        (f"{DEBIAN}\n \n{DEBIAN.replace('bookworm bookworm-updates', 'bookworm-security')}\n",
         f"{DEBIAN}\n\n{DEBIAN.replace('bookworm bookworm-updates', 'bookworm-security')}"),
    ],
)  # fmt: skip
def test_of_deb822_sources_the_distributions_own_are_kept(text, kept):
    assert sources(text) == f"{kept}\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("deb http://mirror.example/debian bookworm main", ""),
        ("deb\thttp://mirror.example/debian\tbookworm   main # the mirror", ""),
        ("  deb [arch=amd64] http://mirror.example/debian bookworm main", ""),
        (
            "deb [ signed-by=/k.gpg arch=amd64 ] http://mirror.example/debian bookworm main",
            "\nSigned-By: /k.gpg",
        ),
    ],
)
def test_of_one_line_sources_the_distributions_own_are_kept(line, kept):
    expected = f"Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main{kept}\n"
    assert sources(line, name="sources.list") == expected
    assert sources(f"# deb http://elsewhere bookworm main\n\n{line}\n", name="sources.list") == expected


OTHERS = [
    DEBIAN.replace("bookworm bookworm-updates", "stable"),
    DEBIAN.replace("bookworm bookworm-updates", "trixie"),
    DEBIAN.replace("bookworm bookworm-updates", "bookworm trixie"),
    DEBIAN.replace("bookworm bookworm-updates", "bookwormish"),
    DEBIAN.replace("bookworm bookworm-updates", "bookworm-backports"),
    DEBIAN.replace("Components: main", "Components: stable"),
    DEBIAN.replace("Suites: bookworm bookworm-updates", "Suites: ./"),
    DEBIAN.replace("Types: deb", "Types: deb-src"),
    f"{DEBIAN}\nEnabled: no",
    f"Enabled: No\n{DEBIAN}",
    f"Enabled: false\n{DEBIAN}",
    DEBIAN.replace("Suites: bookworm bookworm-updates\n", ""),
    "# " + DEBIAN.replace("\n", "\n# "),
    "",
]
OTHER_LINES = [
    "deb-src http://mirror.example/debian bookworm main",
    "# deb http://mirror.example/debian bookworm main",
    "deb http://mirror.example/debian bookworm-backports main",
    "deb https://download.docker.com/linux/debian bookworm stable",
    "deb cdrom:[Debian GNU/Linux 12 _Bookworm_ - Official amd64 DVD]/ bookworm main",
    "deb http://example.org/ ./",
    "deb",
    "deb http://mirror.example/debian",
]


@pytest.mark.parametrize("text", OTHERS)
def test_a_source_of_another_kind_is_left_out(text):
    assert sources(text, DEBIAN) == f"{DEBIAN}\n"
    with pytest.raises(SalternError, match="no source of this host carries bookworm"):
        sources(text)


@pytest.mark.parametrize("line", OTHER_LINES)
def test_a_line_of_another_kind_is_left_out(line):
    with pytest.raises(SalternError, match="no source of this host carries bookworm"):
        sources(line, name="third-party.list")


def test_updates_alone_do_not_make_a_machine():
    with pytest.raises(SalternError, match="no source of this host carries bookworm"):
        sources(DEBIAN.replace("bookworm bookworm-updates", "bookworm-updates bookworm-security"))


def test_files_of_other_kinds_beside_the_sources_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(image, "os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(DEBIAN)
    (tmp_path / "sources.list.d" / "debian.sources.bak").write_text(DEBIAN.replace("deb.debian", "old"))
    (tmp_path / "sources.list.d" / "debian.list.save").write_text("deb http://old bookworm main")
    assert image.host_sources(tmp_path) == f"{DEBIAN}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\n', {"ID": "debian", "VERSION_CODENAME": "bookworm"}),
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n', {"PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}),
        ('# comment\nHOME_URL="https://x/?a=b"\n', {"HOME_URL": "https://x/?a=b"}),
    ],
)  # fmt: skip
def test_the_hosts_description_of_itself_is_read(tmp_path, text, found):
    (tmp_path / "os-release").write_text(text)
    assert image.os_release(tmp_path / "os-release") == found


def test_free_space_is_that_of_the_first_folder_that_is_there(tmp_path):
    assert image.free_mib(tmp_path / "not" / "yet") == pytest.approx(image.free_mib(tmp_path), abs=200)


def test_what_a_machine_gets_of_salt_is_pinned_one_by_one():
    wheels = image.machine_wheels()
    assert any(wheel.startswith("'salt==3008") for wheel in wheels)
    assert all("==" in wheel for wheel in wheels)
