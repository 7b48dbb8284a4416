"""A file is replaced whole, or stays as it is."""

import os
import resource
import signal
import threading

import pytest

from hybrid_llm.core.files import bytes_of, replace_text, replacing


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "file"
    replace_text(path, "old é")
    replace_text(path, "new é", mode=0o600, sync=True)
    assert path.read_text(encoding="utf-8") == "new é"
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_block_that_raises_leaves_the_file_as_it_is(tmp_path):
    path = tmp_path / "file"
    replace_text(path, "old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("sync", [False, True])
def test_a_disk_that_is_full_leaves_the_file_as_it_is(tmp_path, sync):
    path = tmp_path / "file"
    replace_text(path, "old")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            replace_text(path, "x" * 100_000, sync=sync)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_of_several_writers_each_leaves_a_whole_file(tmp_path):
    path = tmp_path / "file"
    texts = [str(number) * 10_000 for number in range(8)]
    threads = [threading.Thread(target=replace_text, args=(path, text)) for text in texts for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert os.listdir(tmp_path) == ["file"]


def test_the_size_is_that_of_a_file_or_of_all_files_in_a_folder(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "one").write_bytes(bytes(3))
    (tmp_path / "deep" / "er" / "two").write_bytes(bytes(4))
    assert (bytes_of(tmp_path), bytes_of(tmp_path / "one")) == (7, 3)
    with pytest.raises(OSError, match="absent"):
        bytes_of(tmp_path / "absent")
