#!/bin/busybox sh
# PID 1 of a capture that runs a script: say what booted, insert the modules, run iotest, power off.
# Everything that belongs in the transcript goes to one serial port, /lab/tty.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs trace /sys/kernel/tracing 2>/dev/null || mount -t debugfs debug /sys/kernel/debug
tracing=/sys/kernel/tracing
[ -e $tracing/trace ] || tracing=/sys/kernel/debug/tracing
exec >/dev/$(cat /lab/tty) 2>&1

uptime() { cut -d' ' -f1 /proc/uptime; }

cat /lab/machine
echo "BOOT uptime=$(uptime) uname=$(uname -r -m)"
echo "CMDLINE $(cat /proc/cmdline)"
for system in iommu intel_iommu; do
	for event in $(ls $tracing/events/$system 2>/dev/null); do
		echo "TRACE_EVENT $system:$event"
	done
done
echo "== dmesg iommu"
dmesg | grep -i -E 'iommu|dmar|amd-vi|smmu|zpci'
echo "== boot trace"
grep -v '^#' $tracing/trace | sed 's/^.*: \([a-z_]*: \)/\1/' | head -120

# The boot's own events are printed; from here on iotest reads them step by step.
echo 1 >$tracing/events/iommu/enable
echo >$tracing/trace
echo 1 >$tracing/tracing_on
for module in $(cat /mods/order); do
	insmod /mods/$module
done
iotest /lab/script
echo "IOTEST rc=$?"
echo "== dmesg tail"
dmesg | grep -i -E 'dmar|amd-vi|smmu|vfio|BUG|WARN|RIP|Oops|event 0x' | grep -v 'ommand line' | tail -40
echo "DONE uptime=$(uptime)"
sleep 0.3
poweroff -f
