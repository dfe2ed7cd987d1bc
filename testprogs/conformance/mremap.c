/* mremap(2): every combination of flags, sizes and what lies there. */
#include "conformance.h"

#define MAYMOVE 1
#define FIXED 2
#define DONTUNMAP 4

enum from { PRIVATE, SHARED, MEMORY_FILE, PRIVATE_FILE, HOLE, TWO, GAP };

struct remap_row {
    const char *name;
    enum from from;
    size_t old_pages, new_pages;
    int flags;
    /* Whether the page behind the old ones is free. */
    bool room;
    int error;
    /* Where it lies then: -1 at any new place, 0 where it was, 1 at the given one. */
    int place;
};

static const struct remap_row remap_rows[] = {
    {"mremap_same", PRIVATE, 4, 4, 0, true, 0, 0},
    {"mremap_same_maymove", PRIVATE, 4, 4, MAYMOVE, true, 0, 0},
    {"mremap_shrink", PRIVATE, 4, 2, 0, true, 0, 0},
    {"mremap_shrink_maymove", PRIVATE, 4, 2, MAYMOVE, true, 0, 0},
    {"mremap_shrink_shared", SHARED, 4, 2, 0, true, 0, 0},
    {"mremap_grow", PRIVATE, 4, 6, 0, true, 0, 0},
    {"mremap_grow_no_room", PRIVATE, 4, 6, 0, false, ENOMEM, 0},
    {"mremap_grow_moves", PRIVATE, 4, 6, MAYMOVE, false, 0, -1},
    {"mremap_grow_shared", SHARED, 4, 6, MAYMOVE, false, 0, -1},
    {"mremap_grow_file", MEMORY_FILE, 4, 6, MAYMOVE, false, 0, -1},
    {"mremap_grow_private_file", PRIVATE_FILE, 4, 6, MAYMOVE, false, 0, -1},
    {"mremap_grow_file_in_place", MEMORY_FILE, 4, 6, 0, true, 0, 0},
    {"mremap_grow_from_the_middle", PRIVATE, 2, 6, 0, true, ENOMEM, 0},
    {"mremap_move_from_the_middle", PRIVATE, 2, 6, MAYMOVE, true, 0, -1},
    {"mremap_fixed", PRIVATE, 4, 4, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_shrinks", PRIVATE, 4, 2, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_grows", PRIVATE, 4, 6, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_shared", SHARED, 4, 4, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_file", MEMORY_FILE, 4, 6, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_part", PRIVATE, 2, 2, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_two", TWO, 4, 4, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_over_a_gap", GAP, 4, 4, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_fixed_two_grow", TWO, 4, 6, MAYMOVE | FIXED, true, EFAULT, 0},
    {"mremap_two", TWO, 4, 6, MAYMOVE, true, EFAULT, 0},
    {"mremap_gap", GAP, 4, 6, MAYMOVE, true, EFAULT, 0},
    {"mremap_hole", HOLE, 4, 4, MAYMOVE, true, EFAULT, 0},
    {"mremap_fixed_hole", HOLE, 4, 4, MAYMOVE | FIXED, true, EFAULT, 0},
    {"mremap_dontunmap", PRIVATE, 4, 4, MAYMOVE | DONTUNMAP, true, 0, -1},
    {"mremap_dontunmap_shared", SHARED, 4, 4, MAYMOVE | DONTUNMAP, true, 0, -1},
    {"mremap_dontunmap_file", MEMORY_FILE, 4, 4, MAYMOVE | DONTUNMAP, true, 0, -1},
    {"mremap_dontunmap_private_file", PRIVATE_FILE, 4, 4, MAYMOVE | DONTUNMAP, true, 0, -1},
    {"mremap_dontunmap_fixed", PRIVATE, 4, 4, MAYMOVE | FIXED | DONTUNMAP, true, 0, 1},
    {"mremap_dontunmap_fixed_two", TWO, 4, 4, MAYMOVE | FIXED | DONTUNMAP, true, 0, 1},
    {"mremap_dontunmap_grows", PRIVATE, 4, 6, MAYMOVE | DONTUNMAP, true, EINVAL, 0},
    {"mremap_dontunmap_shrinks", PRIVATE, 4, 2, MAYMOVE | DONTUNMAP, true, EINVAL, 0},
    {"mremap_dontunmap_alone", PRIVATE, 4, 4, DONTUNMAP, true, EINVAL, 0},
    {"mremap_fixed_alone", PRIVATE, 4, 4, FIXED, true, EINVAL, 0},
    {"mremap_fixed_dontunmap_alone", PRIVATE, 4, 4, FIXED | DONTUNMAP, true, EINVAL, 0},
    {"mremap_unknown_flag", PRIVATE, 4, 4, MAYMOVE | 8, true, EINVAL, 0},
    {"mremap_to_nothing", PRIVATE, 4, 0, MAYMOVE, true, EINVAL, 0},
    {"mremap_again_private", PRIVATE, 0, 4, MAYMOVE, true, EINVAL, 0},
    {"mremap_again_private_file", PRIVATE_FILE, 0, 4, MAYMOVE, true, EINVAL, 0},
    {"mremap_again_shared", SHARED, 0, 4, MAYMOVE, true, 0, -1},
    {"mremap_again_file", MEMORY_FILE, 0, 6, MAYMOVE, true, 0, -1},
    {"mremap_again_fixed", SHARED, 0, 4, MAYMOVE | FIXED, true, 0, 1},
    {"mremap_again_in_place", SHARED, 0, 4, 0, true, ENOMEM, 0},
};

static char *source(enum from from, bool room)
{
    char *at = pages(room ? 4 : 5);
    int file = memory_file(8);
    switch (from) {
    case SHARED:
        check(mmap(at, 4 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
        break;
    case MEMORY_FILE:
        check(mmap(at, 4 * PAGE, RW, MAP_SHARED | MAP_FIXED, file, PAGE));
        break;
    case PRIVATE_FILE:
        check(mmap(at, 4 * PAGE, RW, MAP_PRIVATE | MAP_FIXED, file, PAGE));
        break;
    case HOLE:
        unmap(at, PAGE);
        break;
    case TWO:
        check(mmap(at + 2 * PAGE, 2 * PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0));
        break;
    case GAP:
        unmap(at + PAGE, PAGE);
        break;
    default:
        break;
    }
    return at;
}

static void remap_row(const void *with)
{
    const struct remap_row *row = with;
    char *from = source(row->from, row->room), *to = pages(8);
    if (row->error != 0) {
        fails(row->error, mremap(from, row->old_pages * PAGE, row->new_pages * PAGE, row->flags, to));
        return;
    }
    char *got = (char *)check(mremap(from, row->old_pages * PAGE, row->new_pages * PAGE, row->flags, to));
    require(row->place == 0 ? got == from : row->place == 1 ? got == to : got != from && got != to);
    bool stays = row->old_pages == 0 || row->flags & DONTUNMAP || row->place == 0;
    require(is_mapped(from) == stays);
    require(is_mapped(got + (row->new_pages - 1) * PAGE));
    unmap(got, row->new_pages * PAGE);
    if (stays && got != from)
        unmap(from, 4 * PAGE);
}
ROWS(remap_row, remap_rows)

CASE(mremap_unaligned)
{
    char *at = pages(4), *to = pages(4);
    fails(EINVAL, mremap(at + 1, PAGE, PAGE, MAYMOVE));
    fails(EINVAL, mremap(at, PAGE, PAGE, MAYMOVE | FIXED, to + 1));
}

CASE(mremap_onto_itself)
{
    char *at = pages(6);
    fails(EINVAL, mremap(at, 4 * PAGE, 4 * PAGE, MAYMOVE | FIXED, at + 2 * PAGE));
    fails(EINVAL, mremap(at, 4 * PAGE, 4 * PAGE, MAYMOVE | FIXED, at));
    fails(EINVAL, mremap(at, 4 * PAGE, 4 * PAGE, MAYMOVE | FIXED, (char *)-(2 * PAGE)));
}

CASE(mremap_beyond_the_region)
{
    fails(EFAULT, mremap(pages(2), 4 * PAGE, 8 * PAGE, MAYMOVE));
}


CASE(mremap_locked_beyond_the_limit)
{
    char *at = pages(2);
    check(mlock(at, 2 * PAGE));
    char *grown = (char *)check(mremap(at, 2 * PAGE, 4 * PAGE, MAYMOVE));
    unmap(grown, 4 * PAGE);
}

CASE(mremap_gaps_are_kept)
{
    char *from = pages(6), *to = pages(6);
    unmap(from + PAGE, PAGE);
    map_fixed(from + 3 * PAGE, PAGE, PROT_READ);
    unmap(from + 4 * PAGE, PAGE);
    require((char *)check(mremap(from, 6 * PAGE, 6 * PAGE, MAYMOVE | FIXED, to)) == to);
    require(lines_of(from, 6 * PAGE) == 0);
    /* What lies below the gaps at the target stays. */
    require(is_mapped(to + PAGE) && is_mapped(to + 4 * PAGE));
}

CASE(mremap_keeps_advice)
{
    char *at = pages(4);
    check(madvise(at, 2 * PAGE, MADV_DONTFORK));
    char *to = pages(4);
    check(mremap(at, 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED, to));
    pid_t child = (pid_t)check(fork());
    if (child == 0)
        _exit(is_mapped(to) || !is_mapped(to + 2 * PAGE));
    await_child(child);
}

CASE(mremap_touched_and_untouched)
{
    for (int touched = 0; touched < 2; touched++) {
        char *at = pages(4);
        if (touched)
            memset(at, 1, 4 * PAGE);
        char *to = pages(8);
        check(mremap(at, 2 * PAGE, 4 * PAGE, MAYMOVE | FIXED, to));
        check(mremap(at + 2 * PAGE, 2 * PAGE, 2 * PAGE, MAYMOVE | FIXED, to + 4 * PAGE));
        unmap(to, 8 * PAGE);
    }
}
