#!/bin/busybox sh
# PID 1 of a capture that runs attachlab: the transcript is the kernel's own log on its console,
# so that calls, trace events and warnings stand in the order in which they happened.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
echo 8 >/proc/sys/kernel/printk

say() { echo "attachlab-init $*" >/dev/kmsg; }
link() { basename "$(readlink "$1" 2>/dev/null)" 2>/dev/null; }
place() {
	echo "driver=$(link $1/driver) group=$(link $1/iommu_group)" \
		"type=$(cat $1/iommu_group/type 2>/dev/null)"
}

say "uname=$(uname -r -m) cmdline=$(cat /proc/cmdline)"
for path in /sys/bus/pci/devices/*; do
	say "pci $(basename $path) $(cat $path/vendor):$(cat $path/device) $(place $path)"
done
insmod /mods/attachlab.ko $(cat /lab/args)
say "insmod rc=$?"
for path in /sys/bus/pci/devices/*; do say "after $(basename $path) $(place $path)"; done
say DONE
sleep 1
poweroff -f
