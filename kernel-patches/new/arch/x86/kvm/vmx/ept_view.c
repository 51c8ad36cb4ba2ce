// SPDX-License-Identifier: GPL-2.0
/*
 * Templates of EPT views, independent of any VM, and what the host must have
 * for views.
 */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/user.h>
#include <linux/vmalloc.h>

#include "ept_view.h"
#include "mmu.h"
#include "vmx.h"
#include "vmx_onhyperv.h"

static bool __read_mostly enable_ept_views;
module_param_named(ept_views, enable_ept_views, bool, 0444);
MODULE_PARM_DESC(ept_views, "Let user space create EPT views (default: N)");

static bool __read_mostly ept_views_insist;
module_param(ept_views_insist, bool, 0444);
MODULE_PARM_DESC(ept_views_insist,
		 "Allow EPT views on CPUs that leak between views, and hypercalls on CPUs that leak from the kernel (default: N)");

static bool __read_mostly ept_views_hypercall;
module_param(ept_views_hypercall, bool, 0444);
MODULE_PARM_DESC(ept_views_hypercall,
		 "Let templates be served by VMCALL, in the host's kernel (default: N)");

static u32 __ro_after_init ept_view_rights;

struct ept_gate ept_gate;

/* Ranges are searched one by one. */
#define MAX_RANGES	1024

#define PAGES_IN_2M	(SZ_2M / PAGE_SIZE)

struct ept_view_range {
	struct list_head link;
	struct user_struct *user;	/* charged for the pinned pages */
	u64 gva;
	u64 nr_pages;
	u64 frame;		/* first of the view's frames */
	u32 prot;
	struct page *pages[];
};

struct page *ept_view_alloc_page(struct list_head *pages)
{
	struct page *page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);

	if (page)
		list_add(&page->lru, pages);
	return page;
}

void ept_view_free_pages(struct list_head *pages)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		__free_page(page);
		cond_resched();
	}
}

static u64 *alloc_table(struct list_head *pages)
{
	struct page *page = ept_view_alloc_page(pages);

	return page ? page_address(page) : NULL;
}

u64 ept_view_table(u64 *table)
{
	return __pa(table) | VMX_EPT_RWX_MASK;
}

/*
 * Write-back whatever the guest's PAT says, and no #VE: the guest must not see
 * what happens in a view.
 */
u64 ept_view_leaf(struct page *page, u32 prot)
{
	u64 leaf = page_to_phys(page) | VMX_EPT_IPAT_BIT |
		   ((u64)MTRR_TYPE_WRBACK << VMX_EPT_MT_EPTE_SHIFT) |
		   BIT_ULL(63);

	if (prot & KVM_EPT_VIEW_READ)
		leaf |= VMX_EPT_READABLE_MASK;
	if (prot & KVM_EPT_VIEW_WRITE)
		leaf |= VMX_EPT_WRITABLE_MASK;
	if (prot & KVM_EPT_VIEW_EXEC)
		leaf |= VMX_EPT_EXECUTABLE_MASK;
	return leaf;
}

/*
 * Three tables are enough to lead every guest-physical address to one page:
 * all entries of each level are the same.
 */
static int init_elsewhere(struct ept_view_elsewhere *e, struct page *root,
			  struct list_head *pages)
{
	u64 *pt = alloc_table(pages);
	int i;

	e->pd = alloc_table(pages);
	e->pdpt = alloc_table(pages);
	if (!pt || !e->pd || !e->pdpt)
		return -ENOMEM;

	for (i = 0; i < PTRS_PER_PTE; i++) {
		pt[i] = ept_view_leaf(root, KVM_EPT_VIEW_READ);
		e->pd[i] = ept_view_table(pt);
		e->pdpt[i] = ept_view_table(e->pd);
	}
	return 0;
}

#define GUEST_PTE	(_PAGE_PRESENT | _PAGE_RW | _PAGE_USER | \
			 _PAGE_ACCESSED | _PAGE_DIRTY)

static int pt_init(struct ept_view_pt *pt, struct list_head *pages, u64 gpa)
{
	xa_init(&pt->tables);
	pt->next_gpa = gpa;
	pt->root = ept_view_alloc_page(pages);
	return pt->root ? 0 : -ENOMEM;
}

/*
 * Map one page: of 4 KiB (@last_level 0) or 2 MiB (1).  Every entry is a user
 * page, already accessed and dirty (the tables are read-only to the CPU), never
 * global and without a protection key; what may be done with the page is up to
 * EPT.
 */
static int pt_map(struct ept_view_pt *pt, struct list_head *pages, u64 gva,
		  u64 gpa, int last_level)
{
	struct page *page = pt->root;
	u64 *entry;
	int level, r;

	for (level = 3; level > last_level; level--) {
		entry = (u64 *)page_address(page) +
			((gva >> (PAGE_SHIFT + 9 * level)) & 511);
		if (*entry) {
			page = xa_load(&pt->tables,
				       (*entry & PHYSICAL_PAGE_MASK) >> PAGE_SHIFT);
			if (WARN_ON_ONCE(!page))
				return -EEXIST;
			continue;
		}
		page = ept_view_alloc_page(pages);
		if (!page)
			return -ENOMEM;
		r = xa_err(xa_store(&pt->tables, pt->next_gpa >> PAGE_SHIFT,
				    page, GFP_KERNEL_ACCOUNT));
		if (r)
			return r;
		*entry = pt->next_gpa | GUEST_PTE;
		pt->next_gpa += PAGE_SIZE;
	}
	entry = (u64 *)page_address(page) +
		((gva >> (PAGE_SHIFT + 9 * last_level)) & 511);
	if (WARN_ON_ONCE(*entry))
		return -EEXIST;
	*entry = gpa | GUEST_PTE | (last_level ? _PAGE_PSE : 0);
	return 0;
}

/* The directory's entry for 2 MiB of shared frames. */
static u64 *frame_pde(struct ept_view *view, u64 frame)
{
	u64 **pd = &view->frame_pd[frame >> 18];

	if (!*pd)
		*pd = alloc_table(&view->pages);
	return *pd ? *pd + ((frame >> 9) & 511) : NULL;
}

/* Back one shared frame of the view. */
static int set_frame(struct ept_view *view, u64 frame, struct page *page,
		     u32 prot)
{
	u64 *pde = frame_pde(view, frame), *pt;

	if (!pde)
		return -ENOMEM;
	if (!*pde) {
		pt = alloc_table(&view->pages);
		if (!pt)
			return -ENOMEM;
		*pde = ept_view_table(pt);
	}
	pt = __va(*pde & PHYSICAL_PAGE_MASK);
	pt[frame & 511] = ept_view_leaf(page, prot);
	return 0;
}

/* Back 2 MiB of shared frames by one entry. */
static int set_large_frame(struct ept_view *view, u64 frame, struct page *page,
			   u32 prot)
{
	u64 *pde = frame_pde(view, frame);

	if (!pde)
		return -ENOMEM;
	if (WARN_ON_ONCE(*pde))
		return -EEXIST;
	*pde = ept_view_leaf(page, prot) | PT_PAGE_SIZE_MASK;
	view->nr_in_2m += PAGES_IN_2M;
	return 0;
}

/* Charge the caller; NULL if that is over its limit. */
static struct user_struct *charge_pages(u64 nr_pages)
{
	unsigned long limit = rlimit(RLIMIT_MEMLOCK) >> PAGE_SHIFT;
	struct user_struct *user = get_uid(current_user());
	u64 locked = atomic_long_add_return(nr_pages, &user->locked_vm);

	if (locked > limit && !capable(CAP_IPC_LOCK)) {
		atomic_long_sub(nr_pages, &user->locked_vm);
		free_uid(user);
		return NULL;
	}
	return user;
}

static void uncharge_pages(struct user_struct *user, u64 nr_pages)
{
	atomic_long_sub(nr_pages, &user->locked_vm);
	free_uid(user);
}

static void free_range(struct ept_view_range *range, u64 nr_pinned)
{
	u64 i;

	for (i = 0; i < nr_pinned; i += PAGES_IN_2M) {
		unpin_user_pages_dirty_lock(range->pages + i,
					    min_t(u64, nr_pinned - i, PAGES_IN_2M),
					    true);
		cond_resched();
	}
	uncharge_pages(range->user, range->nr_pages);
	kvfree(range);
}

static int pin_range(struct ept_view_range *range, u64 user_addr, u64 *nr_pinned)
{
	long n;

	while (*nr_pinned < range->nr_pages) {
		if (signal_pending(current))
			return -EINTR;
		n = pin_user_pages_fast(user_addr + *nr_pinned * PAGE_SIZE,
					min_t(u64, range->nr_pages - *nr_pinned, 512),
					FOLL_WRITE | FOLL_LONGTERM,
					range->pages + *nr_pinned);
		if (n <= 0)
			return n ?: -EFAULT;
		*nr_pinned += n;
		cond_resched();
	}
	return 0;
}

static bool prot_valid(u32 prot)
{
	switch (prot) {
	case KVM_EPT_VIEW_READ:
	case KVM_EPT_VIEW_READ | KVM_EPT_VIEW_WRITE:
	case KVM_EPT_VIEW_READ | KVM_EPT_VIEW_EXEC:
	case KVM_EPT_VIEW_EXEC:
		return true;
	default:
		return false;
	}
}

/*
 * Guest-virtual and guest-physical addresses of a large range agree in their
 * lower 21 bits, so that 2 MiB pages can map it.
 */
static u64 first_frame(struct ept_view *view, u64 gva, u64 nr_pages)
{
	u64 offset = (gva >> PAGE_SHIFT) % PAGES_IN_2M, frame = view->nr_frames;

	if (nr_pages >= PAGES_IN_2M)
		frame += (offset - frame) % PAGES_IN_2M;
	return frame;
}

static int ept_view_map(struct ept_view *view, struct kvm_ept_view_map *map)
{
	struct ept_view_range *range, *other;
	u64 nr_pages = map->size >> PAGE_SHIFT;
	struct user_struct *user;
	u64 nr_pinned = 0, frame;
	int r;

	if (map->flags || memchr_inv(map->reserved, 0, sizeof(map->reserved)))
		return -EINVAL;
	if (!prot_valid(map->prot) || !map->size ||
	    !IS_ALIGNED(map->gva | map->size | map->user_addr, PAGE_SIZE))
		return -EINVAL;
	if (map->gva < KVM_EPT_VIEW_MAP_GVA ||
	    map->gva >= KVM_EPT_VIEW_MAP_GVA_END ||
	    map->size > KVM_EPT_VIEW_MAP_GVA_END - map->gva)
		return -ERANGE;
	if (view->sealed)
		return -EROFS;
	frame = first_frame(view, map->gva, nr_pages);
	if (frame > EPT_VIEW_MAX_FRAMES || nr_pages > EPT_VIEW_MAX_FRAMES - frame ||
	    view->nr_ranges == MAX_RANGES)
		return -ENOSPC;
	list_for_each_entry(other, &view->ranges, link) {
		if (map->gva < other->gva + other->nr_pages * PAGE_SIZE &&
		    other->gva < map->gva + map->size)
			return -EEXIST;
	}

	user = charge_pages(nr_pages);
	if (!user)
		return -ENOMEM;
	range = kvzalloc(struct_size(range, pages, nr_pages), GFP_KERNEL_ACCOUNT);
	if (!range) {
		uncharge_pages(user, nr_pages);
		return -ENOMEM;
	}
	range->user = user;
	range->gva = map->gva;
	range->nr_pages = nr_pages;
	range->prot = map->prot;
	range->frame = frame;

	r = pin_range(range, map->user_addr, &nr_pinned);
	if (r) {
		free_range(range, nr_pinned);
		return r;
	}

	view->nr_ranges++;
	view->nr_pinned += nr_pages;
	view->nr_frames = frame + nr_pages;
	list_add_tail(&range->link, &view->ranges);
	return 0;
}

static struct ept_view_range *find_range(struct ept_view *view, u64 gva)
{
	struct ept_view_range *range;

	list_for_each_entry(range, &view->ranges, link) {
		if (gva >= range->gva &&
		    gva - range->gva < range->nr_pages * PAGE_SIZE)
			return range;
	}
	return NULL;
}

static bool data_mapped(struct ept_view *view, u64 gva, u64 size)
{
	const u32 rw = KVM_EPT_VIEW_READ | KVM_EPT_VIEW_WRITE;
	struct ept_view_range *range;
	u64 end = gva + size, at;

	for (at = gva; at < end; at = range->gva + range->nr_pages * PAGE_SIZE) {
		range = find_range(view, at);
		if (!range || range->prot != rw)
			return false;
	}
	return true;
}

/*
 * The pages that each attachment has to itself, at the same place in all.  The
 * list is there in EPT for attachments that enter fast; for others the address
 * faults.
 */
static int map_private(struct ept_view *view)
{
	struct list_head *pages = &view->pages;
	struct ept_view_pt *pt = &view->pt;
	int i, r;

	r = pt_map(pt, pages, KVM_EPT_VIEW_GATE_GVA,
		   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_CODE), 0);
	if (!r && (view->rights & KVM_EPT_VIEW_RIGHT_FAST))
		r = pt_map(pt, pages, KVM_EPT_VIEW_LIST_GVA,
			   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_LIST), 0);
	if (!r)
		r = pt_map(pt, pages, KVM_EPT_VIEW_CALL_GVA,
			   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_CALL), 0);
	for (i = 0; !r && i < EPT_VIEW_STACK_PAGES; i++)
		r = pt_map(pt, pages, KVM_EPT_VIEW_STACK_GVA + i * PAGE_SIZE,
			   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_STACK + i), 0);
	return r;
}

/*
 * Code is copied: its owner keeps a mapping of the original, and whoever can
 * change the code of a fast view is as good as the kernel.
 */
static struct page *service_page(struct ept_view *view,
				 struct ept_view_range *range, u64 i)
{
	struct page *copy;

	if (!(range->prot & KVM_EPT_VIEW_EXEC))
		return range->pages[i];
	copy = ept_view_alloc_page(&view->pages);
	if (copy)
		copy_page(page_address(copy), page_address(range->pages[i]));
	return copy;
}

/* Page @i of the range begins 2 MiB that are mapped by one guest entry. */
static bool is_large(struct ept_view_range *range, u64 i)
{
	u64 gva = range->gva + i * PAGE_SIZE;

	return !(range->prot & KVM_EPT_VIEW_EXEC) && IS_ALIGNED(gva, SZ_2M) &&
	       (range->frame + i) % PAGES_IN_2M == 0 &&
	       range->nr_pages - i >= PAGES_IN_2M;
}

/* ... and by one EPT entry, since the host's pages are 2 MiB in one piece. */
static bool is_contiguous(struct ept_view_range *range, u64 i)
{
	unsigned long pfn = page_to_pfn(range->pages[i]);
	unsigned int j;

	if (!cpu_has_vmx_ept_2m_page() || pfn % PAGES_IN_2M)
		return false;
	for (j = 1; j < PAGES_IN_2M; j++) {
		if (page_to_pfn(range->pages[i + j]) != pfn + j)
			return false;
	}
	return true;
}

static int build_small(struct ept_view *view, struct ept_view_range *range,
		       u64 i)
{
	struct page *page = service_page(view, range, i);

	return page ? set_frame(view, range->frame + i, page, range->prot) :
		      -ENOMEM;
}

/* Maps page @i of the range; says how many pages that was, or an error. */
static int build_pages(struct ept_view *view, struct ept_view_range *range,
		       u64 i)
{
	bool large = is_large(range, i);
	u64 nr = large ? PAGES_IN_2M : 1, j;
	int r = 0;

	if (large && is_contiguous(range, i)) {
		r = set_large_frame(view, range->frame + i, range->pages[i],
				    range->prot);
	} else {
		for (j = 0; !r && j < nr; j++)
			r = build_small(view, range, i + j);
	}
	if (!r)
		r = pt_map(&view->pt, &view->pages, range->gva + i * PAGE_SIZE,
			   EPT_VIEW_FRAME_GPA + (range->frame + i) * PAGE_SIZE,
			   large);
	return r ?: nr;
}

/* The entry stubs of all slots, by each right that there is. */
static int build_stubs(struct ept_view *view)
{
	struct page *page;
	unsigned int slot;
	u32 right;

	for (slot = 0; slot < KVM_EPT_VIEW_SLOTS; slot++) {
		for (right = 1; right & EPT_VIEW_ENTER_RIGHTS; right <<= 1) {
			if (!(right & view->rights))
				continue;
			page = ept_view_make_stub(&view->pages, right, slot,
						  view->entry);
			if (!page)
				return -ENOMEM;
			view->stub[slot].page[ept_view_code_index(right)] = page;
		}
	}
	return 0;
}

/* Builds everything that depends on the mappings only. */
static int build_view(struct ept_view *view)
{
	struct ept_view_range *range;
	struct page *page;
	unsigned long gfn;
	u64 i, frame;
	int r;

	/* The page tables take the frames behind the mapped pages. */
	r = pt_init(&view->pt, &view->pages,
		    EPT_VIEW_FRAME_GPA + view->nr_frames * PAGE_SIZE);
	if (r)
		return r;
	r = init_elsewhere(&view->elsewhere, view->pt.root, &view->pages);
	if (r)
		return r;
	r = map_private(view);
	if (!r)
		r = build_stubs(view);
	if (r)
		return r;

	list_for_each_entry(range, &view->ranges, link) {
		for (i = 0; i < range->nr_pages; i += r) {
			if (fatal_signal_pending(current))
				return -EINTR;
			r = build_pages(view, range, i);
			if (r < 0)
				return r;
			cond_resched();
		}
	}

	xa_for_each(&view->pt.tables, gfn, page) {
		frame = gfn - (EPT_VIEW_FRAME_GPA >> PAGE_SHIFT);
		if (frame >= EPT_VIEW_MAX_FRAMES)
			return -ENOSPC;
		r = set_frame(view, frame, page, KVM_EPT_VIEW_READ);
		if (r)
			return r;
	}
	return 0;
}

static void unbuild_view(struct ept_view *view)
{
	xa_destroy(&view->pt.tables);
	ept_view_free_pages(&view->pages);
	memset(view->frame_pd, 0, sizeof(view->frame_pd));
	memset(view->stub, 0, sizeof(view->stub));
	view->nr_in_2m = 0;
	view->nr_made = 0;
}

/* The service's data at one kernel address. */
static int map_data(struct ept_view *view)
{
	u64 nr_pages = view->data_size >> PAGE_SHIFT, i;
	struct ept_view_range *range = NULL;
	struct page **pages;
	u64 gva;

	if (!nr_pages)
		return 0;
	pages = kvmalloc_array(nr_pages, sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < nr_pages; i++) {
		gva = view->data_gva + i * PAGE_SIZE;
		if (!range || gva - range->gva >= range->nr_pages * PAGE_SIZE)
			range = find_range(view, gva);
		pages[i] = range->pages[(gva - range->gva) >> PAGE_SHIFT];
	}
	cond_resched();
	view->data = vmap(pages, nr_pages, VM_MAP, PAGE_KERNEL);
	kvfree(pages);
	return view->data ? 0 : -ENOMEM;
}

static int check_rights(u32 rights)
{
	const u32 trusted = KVM_EPT_VIEW_RIGHT_FAST |
			    KVM_EPT_VIEW_RIGHT_HYPERCALL;

	if (!rights || (rights & ~(EPT_VIEW_ENTER_RIGHTS |
				   KVM_EPT_VIEW_RIGHT_HYPERCALL)))
		return -EINVAL;
	/*
	 * Code that is entered fast can write the EPTP list, and a hypercall
	 * runs the kernel on data that others write: as good as root.
	 */
	if ((rights & trusted) && !capable(CAP_SYS_RAWIO))
		return -EPERM;
	if (rights & ~ept_view_rights)
		return -EOPNOTSUPP;
	return 0;
}

static int ept_view_seal(struct ept_view *view, struct kvm_ept_view_seal *seal)
{
	struct ept_view_range *code;
	struct list_head *page;
	int r;

	if (seal->flags || memchr_inv(seal->reserved, 0, sizeof(seal->reserved)))
		return -EINVAL;
	if (!IS_ALIGNED(seal->data_gva | seal->data_size, PAGE_SIZE) ||
	    seal->data_gva + seal->data_size < seal->data_gva)
		return -EINVAL;
	r = check_rights(seal->rights);
	if (r)
		return r;
	if (view->sealed)
		return -EROFS;

	code = find_range(view, seal->entry_gva);
	if (!code || !(code->prot & KVM_EPT_VIEW_EXEC) ||
	    !ept_view_entry_in_reach(seal->entry_gva))
		return -EFAULT;
	if (!data_mapped(view, seal->data_gva, seal->data_size))
		return -EFAULT;

	view->rights = seal->rights;
	view->entry = seal->entry_gva;
	view->data_gva = seal->data_gva;
	view->data_size = seal->data_size;
	r = build_view(view);
	if (!r && (view->rights & KVM_EPT_VIEW_RIGHT_HYPERCALL))
		r = map_data(view);
	if (r) {
		unbuild_view(view);
		return r;
	}
	list_for_each(page, &view->pages)
		view->nr_made++;
	view->sealed = true;
	return 0;
}

static void get_info(struct ept_view *view, struct kvm_ept_view_info *info)
{
	struct ept_view_range *range;

	memset(info, 0, sizeof(*info));
	info->pinned_bytes = view->nr_pinned * PAGE_SIZE;
	info->bytes_in_2m = view->nr_in_2m * PAGE_SIZE;
	info->attachment_bytes = EPT_VIEW_ATTACHMENT_PAGES * PAGE_SIZE +
				 sizeof(struct ept_view_attachment);
	info->kernel_bytes = sizeof(*view) + view->nr_made * PAGE_SIZE +
			     view->nr_bells * sizeof(*view->bells);
	list_for_each_entry(range, &view->ranges, link)
		info->kernel_bytes += struct_size(range, pages, range->nr_pages);
	ept_view_count_grants(view, info);
}

static long ept_view_ioctl(struct file *file, unsigned int ioctl,
			   unsigned long arg)
{
	struct ept_view *view = file->private_data;
	void __user *argp = (void __user *)arg;
	union {
		struct kvm_ept_view_map map;
		struct kvm_ept_view_bells bells;
		struct kvm_ept_view_seal seal;
		struct kvm_ept_view_grant grant;
		struct kvm_ept_view_revoke revoke;
		struct kvm_ept_view_info info;
	} u;
	bool reads = _IOC_DIR(ioctl) & _IOC_WRITE;
	long r;

	if (_IOC_TYPE(ioctl) != KVM_EPT_VIEW_IO || _IOC_SIZE(ioctl) > sizeof(u))
		return -ENOTTY;
	if (reads && copy_from_user(&u, argp, _IOC_SIZE(ioctl)))
		return -EFAULT;
	if (mutex_lock_killable(&view->lock))
		return -EINTR;

	switch (ioctl) {
	case KVM_EPT_VIEW_MAP:
		r = ept_view_map(view, &u.map);
		break;
	case KVM_EPT_VIEW_BELLS:
		r = ept_view_set_bells(view, &u.bells);
		break;
	case KVM_EPT_VIEW_SEAL:
		r = ept_view_seal(view, &u.seal);
		break;
	case KVM_EPT_VIEW_GRANT:
		r = ept_view_make_grant(file, view, &u.grant);
		break;
	case KVM_EPT_VIEW_REVOKE:
		r = ept_view_revoke(view, &u.revoke);
		break;
	case KVM_GET_EPT_VIEW_INFO:
		get_info(view, &u.info);
		r = 0;
		break;
	default:
		r = -ENOTTY;
	}
	mutex_unlock(&view->lock);

	/* What takes as long as others like is done without the lock. */
	if (ioctl == KVM_EPT_VIEW_REVOKE && r >= 0 && ept_view_wait_revoked(view))
		r = -EINTR;
	if (ioctl == KVM_GET_EPT_VIEW_INFO &&
	    copy_to_user(argp, &u.info, sizeof(u.info)))
		r = -EFAULT;
	return r;
}

/* Runs when no process, no grant and no attached vCPU holds the template. */
static int ept_view_release(struct inode *inode, struct file *file)
{
	struct ept_view *view = file->private_data;
	struct ept_view_range *range, *next;

	if (view->data)
		vunmap(view->data);
	unbuild_view(view);
	list_for_each_entry_safe(range, next, &view->ranges, link)
		free_range(range, range->nr_pages);
	ept_view_drop_bells(view);
	kfree(view);
	return 0;
}

static const struct file_operations ept_view_fops = {
	.owner		= THIS_MODULE,
	.release	= ept_view_release,
	.unlocked_ioctl	= ept_view_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.llseek		= noop_llseek,
};

int vmx_ept_view_create(void __user *argp)
{
	struct kvm_create_ept_view create;
	struct ept_view *view;
	int fd;

	if (copy_from_user(&create, argp, sizeof(create)))
		return -EFAULT;
	if (create.flags ||
	    memchr_inv(create.reserved, 0, sizeof(create.reserved)))
		return -EINVAL;

	view = kzalloc(sizeof(*view), GFP_KERNEL_ACCOUNT);
	if (!view)
		return -ENOMEM;
	mutex_init(&view->lock);
	INIT_LIST_HEAD(&view->ranges);
	INIT_LIST_HEAD(&view->pages);
	INIT_LIST_HEAD(&view->grants);
	init_waitqueue_head(&view->ended);
	xa_init(&view->pt.tables);

	fd = anon_inode_getfd("kvm-ept-view", &ept_view_fops, view,
			      O_RDWR | O_CLOEXEC);
	if (fd < 0)
		kfree(view);
	return fd;
}

static int build_gate_code(struct ept_gate *gate)
{
	unsigned int slot, i;
	struct page *page;
	u32 right;

	for (slot = 0; slot < KVM_EPT_VIEW_SLOTS; slot++) {
		for (i = 0; i < 2; i++) {
			right = i ? KVM_EPT_VIEW_RIGHT_STRICT :
				    KVM_EPT_VIEW_RIGHT_FAST;
			page = ept_view_make_gate(&gate->pages, right, slot);
			if (!page)
				return -ENOMEM;
			gate->code[slot].page[ept_view_code_index(right)] = page;
		}
	}
	return 0;
}

static int build_gate(struct ept_gate *gate)
{
	int r;

	INIT_LIST_HEAD(&gate->pages);
	r = pt_init(&gate->pt, &gate->pages,
		    EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_GATE_TABLES));
	if (!r)
		r = pt_map(&gate->pt, &gate->pages, KVM_EPT_VIEW_GATE_GVA,
			   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_CODE), 0);
	if (!r)
		r = pt_map(&gate->pt, &gate->pages, KVM_EPT_VIEW_LIST_GVA,
			   EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_LIST), 0);
	if (!r && WARN_ON(gate->pt.next_gpa >
			  EPT_VIEW_PLACE_GPA(EPT_VIEW_PLACE_GATE_TABLES_END)))
		r = -EINVAL;
	if (!r)
		r = init_elsewhere(&gate->elsewhere, gate->pt.root, &gate->pages);
	if (!r)
		r = build_gate_code(gate);
	return r;
}

static bool cpu_has_eptp_switching(void)
{
	u64 vmfuncs;

	return cpu_has_vmx_vmfunc() &&
	       !rdmsrl_safe(MSR_IA32_VMX_VMFUNC, &vmfuncs) &&
	       (vmfuncs & VMX_VMFUNC_EPTP_SWITCHING);
}

/*
 * CPUs on which a view reads what another left in caches and buffers, since
 * nothing is flushed between them (L1TF, MDS, TAA, RFDS, MMIO stale data, GDS).
 * Speculative store bypass (SSB) is not among them: it shows a program its own
 * older stores, and a view's are its own.
 */
static bool cpu_leaks_between_views(void)
{
	return boot_cpu_has_bug(X86_BUG_L1TF) || boot_cpu_has_bug(X86_BUG_MDS) ||
	       boot_cpu_has_bug(X86_BUG_TAA) || boot_cpu_has_bug(X86_BUG_RFDS) ||
	       boot_cpu_has_bug(X86_BUG_MMIO_STALE_DATA) ||
	       boot_cpu_has_bug(X86_BUG_MMIO_UNKNOWN) ||
	       boot_cpu_has_bug(X86_BUG_GDS);
}

/* CPUs on which plain returns in the kernel can be made to speculate. */
static bool cpu_needs_return_thunks(void)
{
	return boot_cpu_has_bug(X86_BUG_RETBLEED) ||
	       boot_cpu_has_bug(X86_BUG_ITS);
}

static bool hypercall_allowed(void)
{
	if (!ept_views_hypercall || !ept_view_has_service())
		return false;
	if (cpu_needs_return_thunks() && !ept_views_insist &&
	    !ept_view_service_returns_by_thunks()) {
		pr_warn("kvm: EPT views without hypercalls: the service has no return thunks, which this CPU needs (RETBLEED or ITS); ept_views_insist=1 overrides\n");
		return false;
	}
	return true;
}

u32 vmx_ept_view_rights(void)
{
	return ept_view_rights;
}

/* Returns 1 if views can be used, 0 if not. */
int vmx_ept_view_setup(void)
{
	int r;

	if (!enable_ept_views)
		return 0;
	if (!enable_ept || !enable_unrestricted_guest ||
	    kvm_is_using_evmcs() || !cpu_has_eptp_switching() ||
	    !cpu_has_vmx_ept_execute_only() || !cpu_has_vmx_ept_4levels() ||
	    !cpu_has_vmx_invept_context() ||
	    !boot_cpu_has(X86_FEATURE_SMEP) || !boot_cpu_has(X86_FEATURE_SMAP)) {
		pr_warn("kvm: EPT views need VMFUNC with EPTP switching, execute-only EPT, unrestricted guests, SMEP and SMAP\n");
		return 0;
	}
	if (!vmx_pt_mode_is_system()) {
		pr_warn("kvm: EPT views need pt_mode=0\n");
		return 0;
	}
	if (cpu_leaks_between_views() && !ept_views_insist) {
		pr_warn("kvm: EPT views refused: this CPU leaks data between views (L1TF, MDS, TAA, RFDS, MMIO stale data or GDS); ept_views_insist=1 overrides\n");
		return 0;
	}

	r = build_gate(&ept_gate);
	if (r) {
		vmx_ept_view_unsetup();
		return r;
	}
	ept_view_rights = EPT_VIEW_ENTER_RIGHTS;
	if (hypercall_allowed())
		ept_view_rights |= KVM_EPT_VIEW_RIGHT_HYPERCALL;
	return 1;
}

void vmx_ept_view_unsetup(void)
{
	if (!ept_gate.pages.next)
		return;
	xa_destroy(&ept_gate.pt.tables);
	ept_view_free_pages(&ept_gate.pages);
	ept_gate.pages.next = NULL;
}
