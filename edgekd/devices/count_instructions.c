/* A plugin for qemu-aarch64: how many instructions the first processor has carried out, at each mark.
 *
 * A mark is the system call getpriority, which the agent makes around each inference and nothing else there
 * does. At each the count so far is written to the file that the argument `out` names, a line each.
 *
 * Debian ships no qemu-plugin.h, so what is used of it is declared here. API is the version of the interface
 * that the qemu at hand speaks: 1 up to qemu 8, 2 from qemu 9 on. What is declared here is the same in both.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default")))
#define GETPRIORITY 141 /* of Linux on aarch64 */

struct qemu_plugin_tb; /* a piece of code without branches */
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, void (*translated)(uint64_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*executed)(unsigned int, void *),
                                          int registers, void *data);
void qemu_plugin_register_vcpu_syscall_cb(uint64_t id,
                                          void (*called)(uint64_t, unsigned int, int64_t, uint64_t, uint64_t,
                                                         uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                         uint64_t));

EXPORTED int qemu_plugin_version = API;

static uint64_t count;
static FILE *out;

/* Each thread is a processor to qemu: the first is the one that infers. */
static void on_executed(unsigned int processor, void *instructions)
{
    if (processor == 0)
        count += (uintptr_t)instructions;
}

static void on_translated(uint64_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_executed, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void on_call(uint64_t id, unsigned int processor, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                    uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (processor != 0 || number != GETPRIORITY)
        return;
    fprintf(out, "%llu\n", (unsigned long long)count);
    fflush(out); /* nothing is said at the end: the agent leaves without ceremony */
}

EXPORTED int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++)
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
    if (out == NULL) {
        fprintf(stderr, "edgekd's counter: out=FILE is missing, or cannot be written\n");
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
