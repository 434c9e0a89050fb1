"""Which journal a directory gets, from tables of mounts as the kernel prints them."""

import pytest

from gradscope.recording.sqlite_journal import journal_mode, journal_mode_for

LAPTOP = """\
sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0
proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0
/dev/nvme0n1p2 / ext4 rw,relatime,errors=remount-ro 0 0
tmpfs /tmp tmpfs rw,nosuid,nodev 0 0
/dev/sdb1 /media/usb\\040stick exfat rw,nosuid 0 0
sshfs#ann@box:/data /home/ann/remote fuse.sshfs rw,nosuid,nodev 0 0
"""
CLUSTER = """\
/dev/sda1 / xfs rw 0 0
nas01:/export/home /home nfs4 rw,vers=4.2,hard 0 0
10.0.0.1@o2ib:/scratch /scratch lustre rw,flock 0 0
beegfs_nodev /projects beegfs rw 0 0
/dev/nvme1n1 /scratch/local ext4 rw 0 0
"""
AUTOMOUNT = """\
/dev/sda1 / ext4 rw 0 0
auto.home /home/ann autofs rw,fd=6 0 0
nas01:/home/ann /home/ann nfs rw 0 0
"""
CONTAINER = """\
overlay / overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d 0 0
share /mnt/share 9p rw,trans=virtio 0 0
windows /mnt/c drvfs rw 0 0
"""


@pytest.mark.parametrize(
    ("mounts", "directory", "expected"),
    [
        (LAPTOP, "/home/ann/.local/share/gradscope", "wal"),
        (LAPTOP, "/tmp/x", "wal"),
        (LAPTOP, "/media/usb stick/runs", "wal"),
        (LAPTOP, "/home/ann/remote/runs", "delete"),
        (LAPTOP, "/home/ann/remotely", "wal"),
        (CLUSTER, "/home/ann/.local/share", "delete"),
        (CLUSTER, "/home", "delete"),
        (CLUSTER, "/scratch/ann", "delete"),
        (CLUSTER, "/projects/ann", "delete"),
        (CLUSTER, "/scratch/local/ann", "wal"),
        (CLUSTER, "/var/tmp", "wal"),
        (AUTOMOUNT, "/home/ann/runs", "delete"),
        (AUTOMOUNT, "/home/bob/runs", "wal"),
        (CONTAINER, "/root/.local/share", "wal"),
        (CONTAINER, "/mnt/share/runs", "delete"),
        (CONTAINER, "/mnt/c/runs", "delete"),
        ("", "/home/ann", "delete"),
        ("a line of nonsense\n\n/dev/sda1 / ext4 rw 0 0\n", "/home/ann", "wal"),
        ("one two\n", "/home/ann", "delete"),
    ],
)
def test_only_a_file_system_known_to_be_local_gets_a_wal(mounts, directory, expected):
    assert journal_mode_for(directory, mounts) == expected


def test_the_place_of_a_link_decides_and_not_that_of_its_name(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    assert journal_mode(link) == journal_mode(real)
