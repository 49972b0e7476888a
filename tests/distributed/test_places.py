from __future__ import annotations

import shlex
import socket
import subprocess

import pytest

from gluon_compress.distributed.places import (
    Place,
    address_towards,
    free_port,
    numeric,
    place_of,
    read_hosts,
    remote_command,
)

MASTER = {"MASTER_ADDR": "node1", "MASTER_PORT": "7000"}


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "4"},
        {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_RANK": "2", "PMI_SIZE": "4"},
        {"RANK": "2", "WORLD_SIZE": "4"},
    ],
)
def test_rank_and_size_come_from_the_environment(variables):
    assert place_of({**variables, **MASTER}) == Place(2, 4, "node1", 7000)


def test_mpi_within_slurm_counts():
    outer = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    inner = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    assert place_of({**outer, **inner, **MASTER}).rank == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "1"},
        {
            "OMPI_COMM_WORLD_RANK": "1",
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        },
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_ranks_of_one_host_need_no_address(variables):
    assert place_of(variables).address == "127.0.0.1"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "--from-environment: none of OMPI_.*, SLURM_PROCID is set"),
        ({"RANK": "0"}, "WORLD_SIZE is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is '2'; allowed: 0 to 1"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'; allowed: 0 to 1"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE is '0'; allowed: 1 to"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not set"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", **MASTER, "MASTER_PORT": "0"},
            "MASTER_PORT is '0'; allowed: 1 to 65535",
        ),
    ],
)
def test_wrong_variables_are_named(variables, message):
    with pytest.raises(ValueError, match=message):
        place_of(variables)


def test_hosts_have_slots(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# ours\nlocalhost\nme@node-1 slots=2  # fast\n\nnode2\n")
    hosts = ["localhost", "me@node-1", "me@node-1", "node2"]
    assert read_hosts(file, 4) == hosts
    assert read_hosts(file, 2) == hosts[:2]
    with pytest.raises(ValueError, match=r"hosts: has 4 slots; allowed: at least 5"):
        read_hosts(file, 5)


@pytest.mark.parametrize(
    "line", ["-oProxyCommand=x", "a b", "a slots=x", "a;b", "a $b"]
)
def test_wrong_hosts_are_refused_by_line(tmp_path, line):
    (tmp_path / "hosts").write_text(f"localhost\n{line}\n")
    with pytest.raises(ValueError, match="hosts: line 2 is"):
        read_hosts(tmp_path / "hosts", 1)


def test_remote_command_is_quoted(tmp_path):
    folder = tmp_path / "it's here"
    folder.mkdir()
    argv = ["sh", "-c", 'pwd; echo "$A" "$0"', "x; y"]
    *ssh, host, line = remote_command("node1", argv, {"A": "1 '2'"}, str(folder))
    assert ssh[0] == "ssh"
    assert host == "node1"
    assert "BatchMode=yes" in ssh  # it never asks for a password
    output = subprocess.check_output(["sh", "-c", line], text=True)
    assert output.splitlines() == [str(folder), "1 '2' x; y"]
    assert shlex.split(line)[:2] == ["cd", str(folder)]


def test_addresses_and_ports():
    assert numeric("localhost") == "127.0.0.1"
    assert address_towards("localhost") == "127.0.0.1"
    with pytest.raises(ValueError, match="no.such.host.invalid: "):
        numeric("no.such.host.invalid")
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1"))):
        pass
