// The list of verbs, and the loop over the script.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "iotest.h"

static void do_nothing(const struct line *line)
{
	(void)line;
}

static void do_sleep(const struct line *line)
{
	wait_ms(number(line, 1));
}

static void do_settle(const struct line *line)
{
	wait_ms(number(line, 1));
	say_what_the_kernel_said();
}

static const struct {
	const char *name;
	verb *run;
} verbs[] = {
	{"note", do_nothing},
	{"sleep", do_sleep},
	{"settle", do_settle},
	{"buf", do_buffer},
	{"w", do_write},
	{"wphys", do_write_physical},
	{"r", do_read},
	{"rb", do_readback},
	{"preload", do_preload},
	{"preloadphys", do_preload_physical},
	{"slotzero", do_forget_pattern},
	{"msi", do_msi},
	{"dev", do_device},
	{"bar", do_bar},
	{"cmd", do_command},
	{"showcmd", do_show_command},
	{"bind", do_bind},
	{"unbind", do_unbind},
	{"probe", do_probe},
	{"gtype", do_group_type},
	{"groups", do_groups},
	{"remove", do_remove},
	{"rescan", do_rescan},
	{"insmod", do_insert_module},
	{"write", do_write_file},
	{"cat", do_show_file},
	{"container", do_container},
	{"ext", do_extensions},
	{"group", do_group},
	{"gstatus", do_group_status},
	{"setcontainer", do_set_container},
	{"unsetcontainer", do_unset_container},
	{"setiommu", do_set_iommu},
	{"info", do_info},
	{"getdev", do_get_device},
	{"closedev", do_close_device},
	{"closegroup", do_close_group},
	{"closecontainer", do_close_container},
	{"map", do_map},
	{"unmap", do_unmap},
	{"iommufd", do_iommufd},
	{"closeiommufd", do_close_iommufd},
	{"cdev", do_cdev},
	{"fbind", do_iommufd_bind},
	{"ioas", do_ioas},
	{"hwpt", do_hwpt},
	{"fattach", do_iommufd_attach},
	{"fdetach", do_iommufd_detach},
	{"fmap", do_iommufd_map},
	{"funmap", do_iommufd_unmap},
	{"fdestroy", do_iommufd_destroy},
};

const char *word(const struct line *line, int index)
{
	if (index >= line->count)
		stop("step %d needs more words: %s", line->number, line->text);
	return line->words[index];
}

const char *word_or(const struct line *line, int index, const char *otherwise)
{
	return index < line->count ? line->words[index] : otherwise;
}

uint64_t number(const struct line *line, int index)
{
	// A negative offset wraps round here and back again where it is used.
	return strtoull(word(line, index), NULL, 0);
}

// A byte that the emulator's trace of configuration writes shows: which step the faults belong to.
static void mark_for_the_emulator(int step)
{
	int fd = open("/sys/bus/pci/devices/0000:00:00.0/config", O_RDWR);
	uint8_t mark = step;

	if (fd < 0)
		return;
	(void)!pwrite(fd, &mark, 1, 0x3c);
	close(fd);
}

static void announce(const struct line *line)
{
	say("STEP %d: %s", line->number, line->text);
	if (!strcmp(line->words[0], "wphys"))
		say(" phys=0x%llx", (unsigned long long)physical(buffer(word(line, 2))->bytes));
	say("\n");
}

static void run(const struct line *line)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i].name, line->words[0])) {
			verbs[i].run(line);
			return;
		}
	say("ERR unknown command %s\n", line->words[0]);
}

int main(int argc, char **argv)
{
	FILE *script = argc > 1 ? fopen(argv[1], "r") : stdin;
	char words[512], text[512];
	struct line line = {.text = text};

	if (!script)
		stop("no script %s", argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_kernel_voices();
	while (fgets(words, sizeof(words), script)) {
		words[strcspn(words, "\n")] = 0;
		strcpy(text, words);
		words[strcspn(words, "#")] = 0;
		line.count = 0;
		for (char *each = strtok(words, " \t"); each; each = strtok(NULL, " \t"))
			if (line.count < 24)
				line.words[line.count++] = each;
		if (!line.count)
			continue;
		line.number++;
		mark_for_the_emulator(line.number);
		announce(&line);
		run(&line);
	}
	say("END steps=%d\n", line.number);
	return 0;
}
