// SPDX-License-Identifier: GPL-2.0-only
/*
 * EPT views: a service that guest user code calls by VMFUNC.
 *
 * The guest runs at CPL 3, since no view can be entered from CPL 0, on page
 * tables of its own; it has no IDT, so that any exception is a shutdown.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm_ept_view.h>

#include "test_util.h"

#include "kvm_util.h"
#include "processor.h"

#ifndef X86_FEATURE_LAM
#define X86_FEATURE_LAM		KVM_X86_CPU_FEATURE(7, 1, EAX, 26)
#endif

#define MEM_PAGES		64
#define MEM_SLOT		0

/* Guest-physical addresses; the first 2 MiB are mapped one to one. */
#define CODE_GPA		0x1000ULL
#define STACK_GPA		0x8000ULL
#define TABLES_GPA		0x10000ULL
#define PAGE_A_GPA		0x20000ULL
#define PAGE_C_GPA		0x21000ULL

#define PAGE_A_VMFUNC		(KVM_EPT_VIEW_GATE_GVA - 3)
#define PAGE_C_GVA		(KVM_EPT_VIEW_GATE_GVA + PAGE_SIZE)

#define SERVICE_GVA		KVM_EPT_VIEW_MAP_GVA
#define DATA_GVA		(KVM_EPT_VIEW_MAP_GVA + (1ULL << 30))

#define PTE_USER		7ULL
#define DONE_PORT		0x10
#define GRANT_ID		0x6b6579ULL
#define NR_MEMBERS		4

/* The guest: calls the service of slot R15 with two addends. */
static const u8 guest_code[] = {
	0xbf, 5, 0, 0, 0,		/* mov $5, %edi */
	0xbe, 7, 0, 0, 0,		/* mov $7, %esi */
	0x31, 0xc0,			/* xor %eax, %eax */
	0x41, 0x8d, 0x4f, 0x01,		/* lea 1(%r15), %ecx */
	0x41, 0xff, 0xd6,		/* call *%r14 */
	0xe6, DONE_PORT,		/* out %al, $DONE_PORT */
};

/* Page A ends in VMFUNC, page C returns to the caller. */
static const u8 page_a_end[] = { 0x0f, 0x01, 0xd4 };
static const u8 page_c[] = { 0xc3 };

/* Services: one adds, one reads what no view maps. */
static const u8 service_add[] = {
	0x48, 0x8d, 0x04, 0x37,		/* lea (%rdi, %rsi), %rax */
	0xc3,				/* ret */
};

static const u8 service_fault[] = {
	0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0,	/* mov 0, %rax */
	0xc3,				/* ret */
};

static const u32 service_index[] = KVM_EPT_VIEW_INDICES_SERVICE;

static void set_entry(struct kvm_vm *vm, uint64_t table, uint64_t gva, int level,
		      uint64_t gpa)
{
	uint64_t *entries = addr_gpa2hva(vm, table);

	entries[(gva >> (12 + 9 * level)) & 511] = gpa | PTE_USER;
}

static void map_guest_pages(struct kvm_vm *vm)
{
	uint64_t table = TABLES_GPA, i;

	/* The first 2 MiB. */
	for (i = 0; i < 3; i++)
		set_entry(vm, table + i * PAGE_SIZE, 0, 3 - i,
			  table + (i + 1) * PAGE_SIZE);
	for (i = 0; i < MEM_PAGES; i++)
		set_entry(vm, table + 3 * PAGE_SIZE, i * PAGE_SIZE, 0,
			  i * PAGE_SIZE);
	/* Pages A and C, before and after the gate's. */
	set_entry(vm, table, KVM_EPT_VIEW_GATE_GVA, 3, table + 4 * PAGE_SIZE);
	set_entry(vm, table + 4 * PAGE_SIZE, KVM_EPT_VIEW_GATE_GVA, 2,
		  table + 5 * PAGE_SIZE);
	set_entry(vm, table + 5 * PAGE_SIZE, KVM_EPT_VIEW_GATE_GVA, 1,
		  table + 6 * PAGE_SIZE);
	set_entry(vm, table + 6 * PAGE_SIZE, KVM_EPT_VIEW_GATE_GVA - PAGE_SIZE, 0,
		  PAGE_A_GPA);
	set_entry(vm, table + 6 * PAGE_SIZE, PAGE_C_GVA, 0, PAGE_C_GPA);
}

static void set_segment(struct kvm_segment *segment, bool code)
{
	*segment = (struct kvm_segment) {
		.limit = 0xffffffff,
		.selector = code ? 0x0b : 0x13,
		.present = 1,
		.type = code ? 11 : 3,
		.dpl = 3,
		.s = 1,
		.l = code,
		.db = !code,
		.g = 1,
	};
}

static void set_sregs(struct kvm_vcpu *vcpu)
{
	struct kvm_sregs sregs;

	vcpu_sregs_get(vcpu, &sregs);
	sregs.cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE |
		    X86_CR0_WP | X86_CR0_PG;
	sregs.cr3 = TABLES_GPA;
	sregs.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_SMEP | X86_CR4_SMAP;
	sregs.efer = EFER_SCE | EFER_LME | EFER_LMA;
	set_segment(&sregs.cs, true);
	set_segment(&sregs.ss, false);
	set_segment(&sregs.ds, false);
	set_segment(&sregs.es, false);
	set_segment(&sregs.fs, false);
	set_segment(&sregs.gs, false);
	sregs.tr = (struct kvm_segment) {
		.limit = 0x67,
		.present = 1,
		.type = 11,
	};
	sregs.idt.limit = 0;
	vcpu_sregs_set(vcpu, &sregs);
}

/* What views cannot be with. */
static void set_cpuid(struct kvm_vcpu *vcpu)
{
	vcpu_init_cpuid(vcpu, kvm_get_supported_cpuid());
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_VMX);
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_PCID);
	vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_PDCM);
	if (kvm_cpu_has(X86_FEATURE_LAM))
		vcpu_clear_cpuid_feature(vcpu, X86_FEATURE_LAM);
	vcpu_clear_cpuid_entry(vcpu, 0xa);
}

static struct kvm_vm *create_vm(struct kvm_vcpu **vcpu)
{
	struct kvm_vm *vm = vm_create_barebones();

	vm_create_irqchip(vm);
	vm_userspace_mem_region_add(vm, VM_MEM_SRC_ANONYMOUS, 0, MEM_SLOT,
				    MEM_PAGES, 0);
	map_guest_pages(vm);
	memcpy(addr_gpa2hva(vm, CODE_GPA), guest_code, sizeof(guest_code));
	memcpy(addr_gpa2hva(vm, PAGE_C_GPA) - sizeof(page_a_end), page_a_end,
	       sizeof(page_a_end));
	memcpy(addr_gpa2hva(vm, PAGE_C_GPA), page_c, sizeof(page_c));

	*vcpu = __vm_vcpu_add(vm, 0);
	set_cpuid(*vcpu);
	set_sregs(*vcpu);
	return vm;
}

static int create_empty_template(void)
{
	struct kvm_create_ept_view create = { };
	int kvm_fd = open_kvm_dev_path_or_exit(), fd;

	fd = ioctl(kvm_fd, KVM_CREATE_EPT_VIEW, &create);
	TEST_ASSERT(fd >= 0, "KVM_CREATE_EPT_VIEW failed, errno %d", errno);
	close(kvm_fd);
	return fd;
}

/* A sealed template with this service and a page of data. */
static int create_template(const u8 *code, size_t size)
{
	struct kvm_ept_view_map map = {
		.gva = SERVICE_GVA,
		.size = PAGE_SIZE,
		.prot = KVM_EPT_VIEW_READ | KVM_EPT_VIEW_EXEC,
	};
	struct kvm_ept_view_seal seal = {
		.rights = KVM_EPT_VIEW_RIGHT_FAST | KVM_EPT_VIEW_RIGHT_STRICT,
		.entry_gva = SERVICE_GVA,
		.data_gva = DATA_GVA,
		.data_size = PAGE_SIZE,
	};
	int fd = create_empty_template();
	void *pages;

	pages = mmap(NULL, 2 * PAGE_SIZE, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(pages != MAP_FAILED, "mmap() failed, errno %d", errno);
	memcpy(pages, code, size);

	map.user_addr = (uintptr_t)pages;
	kvm_ioctl(fd, KVM_EPT_VIEW_MAP, &map);
	map.gva = DATA_GVA;
	map.user_addr += PAGE_SIZE;
	map.prot = KVM_EPT_VIEW_READ | KVM_EPT_VIEW_WRITE;
	kvm_ioctl(fd, KVM_EPT_VIEW_MAP, &map);
	kvm_ioctl(fd, KVM_EPT_VIEW_SEAL, &seal);
	/* Pinned, whatever becomes of the mapping. */
	TEST_ASSERT(!munmap(pages, 2 * PAGE_SIZE), "munmap() failed, errno %d",
		    errno);
	return fd;
}

static int create_grant(int template_fd)
{
	struct kvm_ept_view_grant grant = {
		.id = GRANT_ID,
		.rights = KVM_EPT_VIEW_RIGHT_FAST | KVM_EPT_VIEW_RIGHT_STRICT,
		.members = NR_MEMBERS,
	};
	int fd = ioctl(template_fd, KVM_EPT_VIEW_GRANT, &grant);

	TEST_ASSERT(fd >= 0, "KVM_EPT_VIEW_GRANT failed, errno %d", errno);
	return fd;
}

static int __attach(struct kvm_vcpu *vcpu, int grant_fd, u32 slot, u32 member,
		    u32 right)
{
	struct kvm_attach_ept_view attach = {
		.grant_fd = grant_fd,
		.slot = slot,
		.member = member,
		.right = right,
		.flags = KVM_EPT_VIEW_EXIT_ON_ABORT,
	};

	return ioctl(vcpu->fd, KVM_ATTACH_EPT_VIEW, &attach) ? errno : 0;
}

static void attach(struct kvm_vcpu *vcpu, int grant_fd, u32 slot, u32 member,
		   u32 right)
{
	int r = __attach(vcpu, grant_fd, slot, member, right);

	TEST_ASSERT(!r, "KVM_ATTACH_EPT_VIEW at slot %u failed, errno %d", slot,
		    r);
}

static void detach(struct kvm_vcpu *vcpu, u32 slot)
{
	struct kvm_detach_ept_view detach = { .slot = slot };

	vcpu_ioctl(vcpu, KVM_DETACH_EPT_VIEW, &detach);
}

static struct kvm_ept_view_stats get_stats(struct kvm_vcpu *vcpu, u32 slot)
{
	struct kvm_ept_view_stats stats = { .slot = slot };

	vcpu_ioctl(vcpu, KVM_GET_EPT_VIEW_STATS, &stats);
	return stats;
}

/* Starts the guest anew: a call of this slot. Returns the exit's reason. */
static u32 call(struct kvm_vcpu *vcpu, u32 slot)
{
	struct kvm_regs regs = {
		.rip = CODE_GPA,
		.rsp = STACK_GPA,
		.rflags = 0x3202,	/* IOPL 3, interrupts on */
		.r14 = PAGE_A_VMFUNC,
		.r15 = slot,
	};
	struct kvm_vcpu_events events;

	vcpu_events_get(vcpu, &events);
	memset(&events.exception, 0, sizeof(events.exception));
	vcpu_events_set(vcpu, &events);
	vcpu_regs_set(vcpu, &regs);
	vcpu_run(vcpu);
	return vcpu->run->exit_reason;
}

static void expect_sum(struct kvm_vcpu *vcpu, u32 slot)
{
	struct kvm_regs regs;
	u32 reason = call(vcpu, slot);

	TEST_ASSERT(reason == KVM_EXIT_IO && vcpu->run->io.port == DONE_PORT,
		    "A call of slot %u ended with exit reason %u", slot, reason);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT(regs.rdx == 12, "5 + 7 is %llu at slot %u", regs.rdx, slot);
	TEST_ASSERT(!regs.rax && !regs.rcx && !regs.rsi && !regs.rdi,
		    "A register of the view is left at slot %u", slot);
	TEST_ASSERT(regs.rsp == STACK_GPA, "RSP is 0x%llx after a call",
		    regs.rsp);
}

/* The slot cannot be entered: VMFUNC is #UD, for which there is no handler. */
static void expect_closed(struct kvm_vcpu *vcpu, u32 slot)
{
	u32 reason = call(vcpu, slot);

	TEST_ASSERT(reason == KVM_EXIT_SHUTDOWN,
		    "A call of closed slot %u ended with exit reason %u", slot,
		    reason);
}

static void test_call(u32 right)
{
	int template_fd = create_template(service_add, sizeof(service_add));
	int grant_fd = create_grant(template_fd);
	struct kvm_ept_view_stats stats;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu);
	int r;

	expect_closed(vcpu, 0);
	attach(vcpu, grant_fd, 0, 0, right);
	expect_sum(vcpu, 0);
	stats = get_stats(vcpu, 0);
	TEST_ASSERT(!stats.aborts && stats.armed && !stats.revoked,
		    "%llu aborts, armed %u, revoked %u", stats.aborts,
		    stats.armed, stats.revoked);

	r = __attach(vcpu, grant_fd, 0, 1, right);
	TEST_ASSERT(r == EEXIST, "A taken slot: errno %d", r);
	r = __attach(vcpu, grant_fd, 1, 0, right);
	TEST_ASSERT(r == EBUSY, "A member attached twice: errno %d", r);
	r = __attach(vcpu, grant_fd, 1, 1, KVM_EPT_VIEW_RIGHT_HYPERCALL);
	TEST_ASSERT(r == EACCES, "A right that was not granted: errno %d", r);
	r = __attach(vcpu, template_fd, 1, 1, right);
	TEST_ASSERT(r == EBADF, "A template instead of a grant: errno %d", r);

	detach(vcpu, 0);
	expect_closed(vcpu, 0);
	kvm_vm_free(vm);
	close(grant_fd);
	close(template_fd);
}

static void test_slots(void)
{
	int add_fd = create_template(service_add, sizeof(service_add));
	int fault_fd = create_template(service_fault, sizeof(service_fault));
	int add_grant_fd = create_grant(add_fd);
	int fault_grant_fd = create_grant(fault_fd);
	struct kvm_ept_view_exit *abort;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu);
	struct kvm_regs regs;
	u32 reason;

	/* A service that faults between two others. */
	attach(vcpu, add_grant_fd, 0, 0, KVM_EPT_VIEW_RIGHT_FAST);
	attach(vcpu, fault_grant_fd, 1, 0, KVM_EPT_VIEW_RIGHT_STRICT);
	attach(vcpu, add_grant_fd, 7, 1, KVM_EPT_VIEW_RIGHT_STRICT);
	expect_sum(vcpu, 0);
	expect_sum(vcpu, 7);

	reason = call(vcpu, 1);
	TEST_ASSERT(reason == KVM_EXIT_EPT_VIEW,
		    "A call that faults ended with exit reason %u", reason);
	abort = (void *)vcpu->run->padding;
	TEST_ASSERT(abort->view == service_index[1] && abort->rip == SERVICE_GVA,
		    "Aborted in view 0x%x at 0x%llx", abort->view, abort->rip);
	vcpu_regs_get(vcpu, &regs);
	TEST_ASSERT(regs.rip == PAGE_A_VMFUNC && regs.rsp == STACK_GPA - 8 &&
		    !regs.rdi && !regs.r15,
		    "After the abort RIP is 0x%llx, RSP 0x%llx", regs.rip,
		    regs.rsp);
	TEST_ASSERT(get_stats(vcpu, 1).aborts == 1, "The abort is not counted");

	expect_sum(vcpu, 0);
	expect_sum(vcpu, 7);
	detach(vcpu, 0);
	expect_closed(vcpu, 0);
	expect_sum(vcpu, 7);

	kvm_vm_free(vm);
	close(add_grant_fd);
	close(fault_grant_fd);
	close(add_fd);
	close(fault_fd);
}

static void test_revoke(void)
{
	int template_fd = create_template(service_add, sizeof(service_add));
	struct kvm_ept_view_revoke revoke = { .id = GRANT_ID };
	int grant_fd = create_grant(template_fd);
	struct kvm_ept_view_info info;
	struct kvm_vcpu *vcpu;
	struct kvm_vm *vm = create_vm(&vcpu);
	int r;

	attach(vcpu, grant_fd, 0, 0, KVM_EPT_VIEW_RIGHT_FAST);
	expect_sum(vcpu, 0);
	kvm_ioctl(template_fd, KVM_GET_EPT_VIEW_INFO, &info);
	TEST_ASSERT(info.grants == 1 && info.attachments == 1 &&
		    info.pinned_bytes == 2 * PAGE_SIZE,
		    "%u grants, %u attachments, %llu bytes pinned", info.grants,
		    info.attachments, info.pinned_bytes);

	r = ioctl(template_fd, KVM_EPT_VIEW_REVOKE, &revoke);
	TEST_ASSERT(r == 1, "KVM_EPT_VIEW_REVOKE gives %d, errno %d", r, errno);
	TEST_ASSERT(get_stats(vcpu, 0).revoked, "The slot is not revoked");
	expect_closed(vcpu, 0);
	detach(vcpu, 0);
	r = __attach(vcpu, grant_fd, 0, 0, KVM_EPT_VIEW_RIGHT_FAST);
	TEST_ASSERT(r == EKEYREVOKED, "A revoked grant: errno %d", r);
	r = ioctl(template_fd, KVM_EPT_VIEW_REVOKE, &revoke);
	TEST_ASSERT(!r, "Revoked twice, KVM_EPT_VIEW_REVOKE gives %d", r);
	close(grant_fd);

	/* The id can be granted anew. */
	grant_fd = create_grant(template_fd);
	attach(vcpu, grant_fd, 0, 0, KVM_EPT_VIEW_RIGHT_STRICT);
	expect_sum(vcpu, 0);

	/* The grant keeps the template. */
	close(template_fd);
	expect_sum(vcpu, 0);
	kvm_vm_free(vm);
	close(grant_fd);
}

static int __give_bells(int template_fd, s32 *fds, u32 nr, u32 flags)
{
	struct kvm_ept_view_bells bells = {
		.fds = (uintptr_t)fds,
		.bells = nr,
		.flags = flags,
	};

	return ioctl(template_fd, KVM_EPT_VIEW_BELLS, &bells) ? errno : 0;
}

static void expect_bells(const char *what, int r, int expected)
{
	TEST_ASSERT(r == expected, "Bells, %s: errno %d, expected %d", what, r,
		    expected);
}

/* They are rung by services that are linked into the module. */
static void test_bells(void)
{
	int sealed_fd = create_template(service_add, sizeof(service_add));
	int template_fd = create_empty_template();
	int grant_fd = create_grant(sealed_fd);
	s32 fds[KVM_EPT_VIEW_MAX_BELLS + 1];
	s32 bell = eventfd(0, 0);
	int i;

	TEST_ASSERT(bell >= 0, "eventfd() failed, errno %d", errno);
	for (i = 0; i <= KVM_EPT_VIEW_MAX_BELLS; i++)
		fds[i] = bell;
	expect_bells("none", __give_bells(template_fd, fds, 0, 0), EINVAL);
	expect_bells("too many",
		     __give_bells(template_fd, fds, KVM_EPT_VIEW_MAX_BELLS + 1, 0),
		     EINVAL);
	expect_bells("flags", __give_bells(template_fd, fds, 1, 1), EINVAL);
	expect_bells("no memory", __give_bells(template_fd, NULL, 1, 0), EFAULT);
	fds[1] = -1;
	expect_bells("no fd", __give_bells(template_fd, fds, 2, 0), EBADF);
	fds[1] = template_fd;
	expect_bells("no eventfd", __give_bells(template_fd, fds, 2, 0), EINVAL);
	fds[1] = bell;
	expect_bells("all", __give_bells(template_fd, fds, KVM_EPT_VIEW_MAX_BELLS, 0),
		     0);
	expect_bells("twice", __give_bells(template_fd, fds, 1, 0), EEXIST);
	expect_bells("sealed", __give_bells(sealed_fd, fds, 1, 0), EROFS);
	expect_bells("a grant", __give_bells(grant_fd, fds, 1, 0), ENOTTY);

	close(bell);
	close(grant_fd);
	close(template_fd);
	close(sealed_fd);
}

int main(int argc, char *argv[])
{
	unsigned int rights = kvm_check_cap(KVM_CAP_EPT_VIEW);

	TEST_REQUIRE(rights & KVM_EPT_VIEW_RIGHT_FAST);
	TEST_REQUIRE(rights & KVM_EPT_VIEW_RIGHT_STRICT);

	test_call(KVM_EPT_VIEW_RIGHT_FAST);
	test_call(KVM_EPT_VIEW_RIGHT_STRICT);
	test_slots();
	test_revoke();
	test_bells();
	return 0;
}
