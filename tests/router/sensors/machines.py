"""Trees of files as real machines have them: name -> text, as `cat` shows it. No machine has all of it."""

from __future__ import annotations

from pathlib import Path

MIB = 1024 * 1024

MEMINFO = "MemTotal:       16303428 kB\nMemFree:          812340 kB\nMemAvailable:    8388608 kB\n"
NO_SWAP = MEMINFO + "SwapTotal:             0 kB\nSwapFree:              0 kB\n"
SWAP = MEMINFO + "SwapTotal:       4194304 kB\nSwapFree:        3145728 kB\n"
STAT = (
    "cpu  400 0 100 1500 0 0 0 0 0 0\ncpu0 300 0 100 600 0 0 0 0 0 0\ncpu1 100 0 0 900 0 0 0 0 0 0\nintr 1 0\nctxt 5\n"
)
ALLOWED = "Name:\tpython3\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1\n"
PSI = "some avg10=1.50 avg60=0.40 avg300=0.10 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
HEAD = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
UNIFIED = "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
WIFI_ROUTES = (
    HEAD
    + "wlp2s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
    + "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    + "wlp2s0\t0000A8C0\t00000000\t0001\t0\t0\t600\t00FFFFFF\t0\t0\t0\n"
)


def link(name: str, *, state: str = "up", carrier: str = "1", kind: str = "", bridge: bool = False) -> dict[str, str]:
    """The files of one interface in sysfs."""
    folder = f"sys/class/net/{name}"
    found = {
        f"{folder}/operstate": f"{state}\n",
        f"{folder}/carrier": f"{carrier}\n",
        f"{folder}/uevent": (f"DEVTYPE={kind}\n" if kind else "") + f"INTERFACE={name}\nIFINDEX=2\n",
    }
    return {**found, **({f"{folder}/bridge/bridge_id": "8000.0242ac110002\n"} if bridge else {})}


def supply(name: str, **values: object) -> dict[str, str]:
    """The files of one power supply in sysfs."""
    return {f"sys/class/power_supply/{name}/{key}": f"{value}\n" for key, value in values.items()}


LOOPBACK = link("lo", state="unknown")

LAPTOP = {
    "proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
    "proc/self/mountinfo": UNIFIED,
    "proc/self/status": ALLOWED,
    "proc/meminfo": SWAP,
    "proc/stat": STAT,
    **{f"proc/pressure/{name}": PSI for name in ("memory", "cpu", "io")},
    "sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope/cpu.pressure": PSI.replace("1.50", "7.25", 1),
    "sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope/memory.max": "max\n",
    "sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope/memory.current": "1000000\n",
    **supply("AC", type="Mains", online=0),
    **supply(
        "BAT0", type="Battery", present=1, status="Discharging", capacity=90, energy_full=20000000, energy_now=18000000
    ),
    **supply(
        "BAT1", type="Battery", present=1, status="Unknown", capacity=15, energy_full=60000000, energy_now=10000000
    ),
    **supply("hidpp_battery_0", type="Battery", scope="Device", present=1, status="Discharging", capacity=3),
    **supply("ucsi-source-psy-1", type="USB", online=0),
    "sys/class/hwmon/hwmon0/name": "acpitz\n",
    "sys/class/hwmon/hwmon0/temp1_input": "97000\n",
    "sys/class/hwmon/hwmon4/name": "coretemp\n",
    "sys/class/hwmon/hwmon4/temp1_input": "61000\n",
    "sys/class/hwmon/hwmon4/temp1_max": "100000\n",
    "sys/class/hwmon/hwmon4/temp1_crit": "105000\n",
    "sys/class/hwmon/hwmon4/temp2_input": "58000\n",
    "sys/class/thermal/cooling_device0/type": "Fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "5\n",
    "sys/class/thermal/cooling_device1/type": "Processor\n",
    "sys/class/thermal/cooling_device1/cur_state": "0\n",
    "sys/class/thermal/cooling_device2/type": "intel_powerclamp\n",
    "sys/class/thermal/cooling_device2/cur_state": "-1\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": "12\n",
    "proc/net/route": WIFI_ROUTES,
    **LOOPBACK,
    **link("wlp2s0", kind="wlan"),
    **link("docker0", bridge=True, kind="bridge"),
    "sys/class/drm/card0/device/vendor": "0x8086\n",
    "sys/class/drm/card1/device/gpu_busy_percent": "37\n",
    "sys/class/drm/card1/device/mem_info_vram_total": f"{4096 * MIB}\n",
    "sys/class/drm/card1/device/mem_info_vram_used": f"{1024 * MIB}\n",
    "sys/class/drm/card1/device/hwmon/hwmon6/temp1_input": "52000\n",
}
"""Two batteries, unplugged, a mouse with a battery of its own, an AMD card beside Intel's, Docker, Wi-Fi."""

PHONE = {
    "proc/self/cgroup": "0::/uid_10123/pid_4711\n",
    "proc/self/mountinfo": "27 20 0:24 / /sys/fs/cgroup rw - cgroup2 none rw,memory_recursiveprot\n",
    "proc/self/status": "Cpus_allowed_list:\t0\n",
    "proc/meminfo": NO_SWAP,
    "proc/stat": STAT,
    **supply("battery", type="Battery", status="Charging", capacity=64, charge_full=4000000, charge_now=2600000),
    **supply("usb", type="USB", online=1),
    **supply("wireless", type="Wireless", online=0),
    "sys/class/thermal/thermal_zone0/type": "battery\n",
    "sys/class/thermal/thermal_zone0/temp": "88000\n",
    "sys/class/thermal/thermal_zone7/type": "cpu-1-0-usr\n",
    "sys/class/thermal/thermal_zone7/temp": "71500\n",
    "sys/class/thermal/thermal_zone7/trip_point_0_type": "passive\n",
    "sys/class/thermal/thermal_zone7/trip_point_0_temp": "70000\n",
    "sys/class/thermal/thermal_zone7/trip_point_1_type": "critical\n",
    "sys/class/thermal/thermal_zone7/trip_point_1_temp": "110000\n",
    "sys/class/thermal/thermal_zone9/type": "gpu-usr\n",
    "sys/class/thermal/thermal_zone9/temp": "66000\n",
    "sys/class/thermal/cooling_device3/type": "thermal-cpufreq-0\n",
    "sys/class/thermal/cooling_device3/cur_state": "2\n",
    "sys/class/kgsl/kgsl-3d0/gpu_busy_percentage": "12 %\n",
    "proc/net/route": HEAD + "rmnet0\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0\n",
    **LOOPBACK,
    **link("rmnet0", state="unknown"),
}
"""An Android board that is charged, beyond its passive trip point and slowed down, with an Adreno GPU."""

RASPBERRY = {
    "proc/meminfo": NO_SWAP,
    "proc/stat": STAT,
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48312\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "50000\n",
    "proc/net/route": HEAD + "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    **LOOPBACK,
    **link("eth0"),
}
"""On a cable without a gateway; it was throttled once, which is not now."""

JETSON = {
    "sys/devices/platform/gpu.0/load": "455\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "45500\n",
}

CONTAINER_V1 = {
    "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab12\n4:memory:/docker/ab12\n1:name=systemd:/docker/ab12\n",
    "proc/self/mountinfo": (
        "411 410 0:30 /docker/ab12 /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:15 - cgroup cgroup rw,cpu,cpuacct\n"
        "412 410 0:31 /docker/ab12 /sys/fs/cgroup/memory ro,nosuid master:16 - cgroup cgroup rw,memory\n"
        "413 410 0:32 /docker/ab12 /sys/fs/cgroup/systemd ro,nosuid - cgroup cgroup rw,xattr,name=systemd\n"
    ),
    "proc/self/status": "Cpus_allowed_list:\t0-7\n",
    "proc/meminfo": SWAP,
    "proc/stat": STAT,
    "proc/pressure/cpu": PSI,
    "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{512 * MIB}\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{200 * MIB}\n",
    "sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": f"{768 * MIB}\n",
    "sys/fs/cgroup/memory/memory.memsw.usage_in_bytes": f"{200 * MIB}\n",
    "sys/fs/cgroup/memory/memory.stat": f"inactive_file 7\ntotal_inactive_file {50 * MIB}\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "3000000000\n",
    "proc/net/route": HEAD + "eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    **LOOPBACK,
    **link("eth0"),
}
"""Docker on a host of version 1: its own group is mounted, under the name that the host knows."""

_OUTER = "sys/fs/cgroup/system.slice"
_INNER = f"{_OUTER}/app.service"
NESTED_V2 = {
    "proc/self/cgroup": "0::/system.slice/app.service/worker\n",
    "proc/self/mountinfo": UNIFIED,
    "proc/self/status": "Cpus_allowed_list:\t0-7\n",
    "proc/meminfo": NO_SWAP,
    f"{_INNER}/worker/memory.max": "max\n",
    f"{_INNER}/worker/memory.current": f"{10 * MIB}\n",
    f"{_INNER}/worker/cpu.max": "max 100000\n",
    f"{_INNER}/worker/cpu.stat": "usage_usec 1000000\nuser_usec 1\n",
    f"{_INNER}/worker/memory.pressure": PSI,
    f"{_INNER}/memory.max": f"{900 * MIB}\n",
    f"{_INNER}/memory.high": f"{800 * MIB}\n",
    f"{_INNER}/memory.current": f"{300 * MIB}\n",
    f"{_INNER}/memory.stat": f"anon 1\ninactive_file {100 * MIB}\n",
    f"{_INNER}/cpu.max": "200000 100000\n",
    f"{_INNER}/cpu.stat": "usage_usec 2000000\n",
    f"{_OUTER}/memory.max": f"{1000 * MIB}\n",
    f"{_OUTER}/memory.current": f"{950 * MIB}\n",
    f"{_OUTER}/memory.stat": f"inactive_file {20 * MIB}\n",
    f"{_OUTER}/cpu.max": "max 100000\n",
}
"""The process's own group has no limit; two of its ancestors have, and the outermost is nearly full."""

KUBERNETES = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": (
        "1600 1500 0:90 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b\n"
        "1611 1605 0:27 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n"
    ),
    "proc/self/status": "Cpus_allowed_list:\t0-63\n",
    "proc/meminfo": NO_SWAP,
    "sys/fs/cgroup/memory.max": f"{256 * MIB}\n",
    "sys/fs/cgroup/memory.current": f"{64 * MIB}\n",
    "sys/fs/cgroup/memory.swap.max": "0\n",
    "sys/fs/cgroup/memory.swap.current": "0\n",
    "sys/fs/cgroup/cpu.max": "50000 100000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 5000000\n",
    "sys/fs/cgroup/io.pressure": PSI,
    "proc/net/route": HEAD + "eth0\t00000000\t0101F40A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    **LOOPBACK,
    **link("eth0"),
}
"""A pod with a control group namespace."""

KUBERNETES_V1_HOST = {
    "proc/self/cgroup": "4:memory:/kubepods/burstable/pod1234/abcd\n3:cpu,cpuacct:/kubepods/burstable/pod1234/abcd\n",
    "proc/self/mountinfo": (
        "40 30 0:33 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "41 30 0:34 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    ),
    "proc/meminfo": NO_SWAP,
    "sys/fs/cgroup/memory/kubepods/burstable/pod1234/abcd/memory.limit_in_bytes": "9223372036854771712\n",
    "sys/fs/cgroup/memory/kubepods/burstable/pod1234/abcd/memory.usage_in_bytes": f"{40 * MIB}\n",
    "sys/fs/cgroup/memory/kubepods/burstable/pod1234/memory.limit_in_bytes": f"{100 * MIB}\n",
    "sys/fs/cgroup/memory/kubepods/burstable/pod1234/memory.usage_in_bytes": f"{70 * MIB}\n",
    "sys/fs/cgroup/cpu,cpuacct/kubepods/burstable/pod1234/abcd/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu,cpuacct/kubepods/burstable/pod1234/cpu.cfs_quota_us": "25000\n",
    "sys/fs/cgroup/cpu,cpuacct/kubepods/burstable/pod1234/cpu.cfs_period_us": "100000\n",
    "sys/fs/cgroup/cpu,cpuacct/kubepods/burstable/pod1234/cpuacct.usage": "1000000000\n",
}
"""A container that sees the whole hierarchy: the limit is on the pod."""

WSL = {
    "proc/self/cgroup": "0::/init.scope\n",
    "proc/self/mountinfo": UNIFIED,
    "proc/meminfo": SWAP,
    "proc/stat": STAT,
    "sys/fs/cgroup/init.scope/memory.max": "max\n",
    **supply("AC1", type="Mains", online=1),
    **supply("BAT1", type="Battery", present=1, status="Full", capacity=100),
    "proc/net/route": HEAD + "eth0\t00000000\t01D017AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
    **LOOPBACK,
    **link("eth0"),
}

BARE_VM = {
    "proc/self/cgroup": "0::/\n",
    "proc/self/mountinfo": UNIFIED,
    "proc/meminfo": NO_SWAP,
    "proc/stat": STAT,
    "proc/net/route": HEAD,
    **LOOPBACK,
}
"""No battery, no thermometer, no PSI, no GPU, no route."""

MACHINES = {
    "laptop": LAPTOP,
    "phone": PHONE,
    "raspberry": RASPBERRY,
    "jetson": JETSON,
    "container v1": CONTAINER_V1,
    "nested v2": NESTED_V2,
    "kubernetes": KUBERNETES,
    "kubernetes v1 host": KUBERNETES_V1_HOST,
    "wsl": WSL,
    "bare vm": BARE_VM,
}


def build(root: Path, files: dict[str, str]) -> Path:
    """Write *files* below *root*."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
