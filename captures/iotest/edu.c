// DMA by QEMU's edu device, and the verdict of each: decided by looking at memory afterwards.
//
// edu copies between an address on the bus and a 4096-byte buffer of its own, which is divided
// here: the pattern it writes lies at 0, what it reads goes to 2048, an interrupt message to 3072.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iotest.h"

#define EDU_BUFFER 0x40000ull
#define PATTERN_SLOT 0
#define READ_SLOT 2048
#define MESSAGE_SLOT 3072
#define UNTOUCHED 0xCC	// what a page holds before a DMA
#define PRESET 0x5A	// what the device holds before it reads

enum direction { TO_DEVICE = 0, TO_MEMORY = 2 };

static int last_seed;
static struct buffer *readback_buffer;
static uint64_t readback_iova;
static size_t readback_offset;

uint64_t physical(const void *address)
{
	uint64_t entry = 0, virtual = (uintptr_t)address;
	int fd = open("/proc/self/pagemap", O_RDONLY);

	if (pread(fd, &entry, 8, virtual / PAGE * 8) != 8)
		entry = 0;
	close(fd);
	if (!(entry >> 63))
		return 0;
	return (entry & ((1ull << 55) - 1)) * PAGE + virtual % PAGE;
}

static volatile uint8_t *registers(const struct device *device)
{
	return device->vfio_bar ? device->vfio_bar : device->sysfs_bar;
}

static void start(volatile uint8_t *edu, uint64_t from, uint64_t to, size_t length,
		  enum direction direction)
{
	*(volatile uint64_t *)(edu + 0x80) = from;
	*(volatile uint64_t *)(edu + 0x88) = to;
	*(volatile uint64_t *)(edu + 0x90) = length;
	*(volatile uint32_t *)(edu + 0x98) = 1 | direction;
}

static int finish(volatile uint8_t *edu)
{
	for (int i = 0; i < 3000; i++) {
		if (!(*(volatile uint32_t *)(edu + 0x98) & 1))
			return 0;
		wait_ms(1);
	}
	return -3;
}

// 0: the device says that it is done, which is no verdict. -1: no BAR. -2: BAR dead. -3: stuck.
static int dma(const struct device *device, uint64_t iova, size_t length, uint64_t slot,
	       enum direction direction)
{
	volatile uint8_t *edu = registers(device);

	if (!edu) {
		say("  ! no BAR for %s\n", device->name);
		return -1;
	}
	if (*(volatile uint32_t *)edu == 0xffffffff) {
		say("  ! BAR reads ff (mem decode off)\n");
		return -2;
	}
	if (direction == TO_MEMORY)
		start(edu, EDU_BUFFER + slot, iova, length, direction);
	else
		start(edu, iova, EDU_BUFFER + slot, length, direction);
	return finish(edu);
}

// A byte of a pattern: never a value that means something else here.
static uint8_t pattern(size_t index, int seed)
{
	uint8_t value = (uint8_t)(seed * 37 + index * 7 + 1);

	return value == UNTOUCHED || value == PRESET || value == 0 ? value + 3 : value;
}

static void fill(uint8_t *bytes, size_t length, int seed)
{
	for (size_t i = 0; i < length; i++)
		bytes[i] = pattern(i, seed);
	__sync_synchronize();
}

// "W[0..31] .[32..63]": classes of bytes in runs.
static const char *runs(const uint8_t *classes, size_t length)
{
	static char text[512];
	size_t used = 0, first = 0;

	text[0] = 0;
	while (first < length && used < 400) {
		size_t end = first;

		while (end < length && classes[end] == classes[first])
			end++;
		used += snprintf(text + used, sizeof(text) - used, "%s%c[%zu..%zu]",
				 used ? " " : "", classes[first], first, end - 1);
		first = end;
	}
	return text;
}

// The device writes `length` bytes to `iova`; byte i is looked for at `offset` + i of the buffer.
// The offset may be negative: bytes outside the buffer cannot be observed ('x').
static void write_and_look(const struct line *line, struct device *device, uint64_t iova,
			   size_t length, struct buffer *buffer, long offset, const char *label)
{
	uint8_t classes[PAGE];
	size_t expected = 0, changed = 0, strays = 0;
	const char *outcome;
	int returned;

	memset(buffer->bytes, UNTOUCHED, buffer->length);
	__sync_synchronize();
	returned = dma(device, iova, length, PATTERN_SLOT, TO_MEMORY);

	for (size_t i = 0; i < length && i < sizeof(classes); i++) {
		uint8_t wanted = device->loaded ? pattern(i, device->seed) : 0;
		long at = offset + (long)i;

		if (at < 0 || at >= (long)buffer->length) {
			classes[i] = 'x';
			continue;
		}
		classes[i] = buffer->bytes[at] == wanted      ? 'W'
			     : buffer->bytes[at] == UNTOUCHED ? '.'
							      : '?';
		expected += buffer->bytes[at] == wanted;
		changed += buffer->bytes[at] != UNTOUCHED;
	}
	for (long at = 0; at < (long)buffer->length; at++)
		if ((at < offset || at >= offset + (long)length) && buffer->bytes[at] != UNTOUCHED)
			strays++;
	wait_ms(30);  // let the fault interrupt be handled, so that its messages stand here

	if (returned)
		outcome = "DMA-ERR";
	else if (changed == length)
		outcome = expected == length ? "LANDED" : "LANDED(other-data)";
	else if (changed == 0)
		outcome = strays ? "ELSEWHERE" : "BLOCKED";
	else
		outcome = "PARTIAL";
	say("RESULT step=%d dev=%s dir=W iova=0x%llx len=%zu outcome=%s landed=%zu/%zu strays=%zu "
	    "map=%s rc=%d label=%s\n",
	    line->number, device->name, (unsigned long long)iova, length, outcome, changed, length,
	    strays, runs(classes, length), returned, label);
	say_what_the_kernel_said();
}

// The device reads `length` bytes from `iova`. What it got is fetched back through a page that is
// known to be mapped: preset the device's bytes through it, read, and write them out through it.
static void read_and_look(const struct line *line, struct device *device, uint64_t iova,
			  size_t length, struct buffer *buffer, size_t offset, const char *label)
{
	uint8_t classes[PAGE], *back;
	size_t got = 0, zeros = 0, unchanged = 0;
	const char *outcome;
	int preset, read, fetched, seed;

	if (!readback_buffer) {
		say("  ! no readback iova\n");
		return;
	}
	back = readback_buffer->bytes + readback_offset;
	memset(back, PRESET, length);
	__sync_synchronize();
	preset = dma(device, readback_iova, length, READ_SLOT, TO_DEVICE);
	seed = ++last_seed;
	if (buffer)
		fill(buffer->bytes + offset, length, seed);
	read = dma(device, iova, length, READ_SLOT, TO_DEVICE);
	memset(back, UNTOUCHED, length);
	__sync_synchronize();
	fetched = dma(device, readback_iova, length, READ_SLOT, TO_MEMORY);

	for (size_t i = 0; i < length && i < sizeof(classes); i++) {
		uint8_t byte = back[i];

		classes[i] = buffer && byte == pattern(i, seed) ? 'D'
			     : byte == 0			? '0'
			     : byte == PRESET			? '='
			     : byte == 0xFF			? 'F'
			     : byte == UNTOUCHED		? '!'
								: '?';
		got += classes[i] == 'D';
		zeros += classes[i] == '0';
		unchanged += classes[i] == '=';
	}
	wait_ms(30);

	if (preset || read || fetched)
		outcome = "DMA-ERR";
	else if (got)
		outcome = got == length ? "GOT_DATA" : "PARTIAL";
	else if (zeros == length)
		outcome = "BLOCKED(zeros)";
	else
		outcome = unchanged == length ? "BLOCKED(unchanged)" : "BLOCKED(other)";
	say("RESULT step=%d dev=%s dir=R iova=0x%llx len=%zu outcome=%s got=%zu/%zu map=%s "
	    "rc=%d,%d,%d label=%s\n",
	    line->number, device->name, (unsigned long long)iova, length, outcome, got, length,
	    runs(classes, length), preset, read, fetched, label);
	say_what_the_kernel_said();
}

static void load_pattern(struct device *device, uint64_t iova, struct buffer *buffer, size_t offset)
{
	int returned;

	device->seed = ++last_seed;
	fill(buffer->bytes + offset, 1024, device->seed);
	returned = dma(device, iova, 1024, PATTERN_SLOT, TO_DEVICE);
	device->loaded = !returned;
	say("PRELOAD dev=%s iova=0x%llx rc=%d seed=%d\n", device->name, (unsigned long long)iova,
	    returned, device->seed);
	say_what_the_kernel_said();
}

void do_buffer(const struct line *line)
{
	struct buffer *buffer = new_buffer(word(line, 1), number(line, 2) * PAGE);

	buffer->bytes = mmap(NULL, buffer->length, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_LOCKED, -1, 0);
	if (buffer->bytes == MAP_FAILED)
		stop("no memory for %s", buffer->name);
	memset(buffer->bytes, UNTOUCHED, buffer->length);
}

void do_write(const struct line *line)
{
	write_and_look(line, device(word(line, 1)), number(line, 2), number(line, 3),
		       buffer(word(line, 4)), (long)number(line, 5), word_or(line, 6, "-"));
}

void do_write_physical(const struct line *line)
{
	struct buffer *target = buffer(word(line, 2));
	uint64_t address = physical(target->bytes), after;

	if (!address) {
		say("  ! no phys\n");
		return;
	}
	write_and_look(line, device(word(line, 1)), address, number(line, 3), target, 0,
		       word_or(line, 4, "-"));
	after = physical(target->bytes);
	if (after != address)
		say("  ! page moved %llx->%llx\n", (unsigned long long)address,
		    (unsigned long long)after);
}

void do_read(const struct line *line)
{
	const char *name = word(line, 4);

	read_and_look(line, device(word(line, 1)), number(line, 2), number(line, 3),
		      strcmp(name, "-") ? buffer(name) : NULL, number(line, 5),
		      word_or(line, 6, "-"));
}

void do_readback(const struct line *line)
{
	readback_iova = number(line, 1);
	readback_buffer = buffer(word(line, 2));
	readback_offset = number(line, 3);
}

void do_preload(const struct line *line)
{
	load_pattern(device(word(line, 1)), number(line, 2), buffer(word(line, 3)),
		     number(line, 4));
}

void do_preload_physical(const struct line *line)
{
	struct buffer *source = buffer(word(line, 2));

	load_pattern(device(word(line, 1)), physical(source->bytes), source, 0);
}

void do_forget_pattern(const struct line *line)
{
	device(word(line, 1))->loaded = 0;
}

// A write that is an interrupt message: four bytes, to the MSI window.
void do_msi(const struct line *line)
{
	struct device *sender = device(word(line, 1));
	uint32_t value = number(line, 3);
	int loaded, sent;

	if (!readback_buffer) {
		say("  ! no readback iova\n");
		return;
	}
	memcpy(readback_buffer->bytes + readback_offset, &value, sizeof(value));
	__sync_synchronize();
	loaded = dma(sender, readback_iova, sizeof(value), MESSAGE_SLOT, TO_DEVICE);
	sent = dma(sender, number(line, 2), sizeof(value), MESSAGE_SLOT, TO_MEMORY);
	say("RESULT step=%d dev=%s dir=W iova=%s len=4 outcome=MSI-WRITE value=0x%x rc=%d,%d "
	    "label=%s\n",
	    line->number, sender->name, word(line, 2), value, loaded, sent, word_or(line, 4, "-"));
	wait_ms(100);
	say_what_the_kernel_said();
}
