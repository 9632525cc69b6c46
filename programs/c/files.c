// Files: in a folder that can only be read (argv[1]), and in one that can be written (argv[2]).
//
// The first holds `a.txt` ("alpha\nbeta\ngamma\n"), `b.txt` (empty), `c.bin` (0 to 255, 100 times)
// and `sub/inner.txt` ("inner\n"), `link` to `a.txt` and `outside` to `/etc/hostname`.

#define _GNU_SOURCE
#include "checks.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static char paths[8][4096];

static const char *in(const char *folder, const char *name) {
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

// Prints a folder's names in order, with their kinds.
static void list(const char *path) {
    DIR *folder = opendir(path);
    CHECK(folder, "opendir");
    if (!folder) return;
    char *names[64];
    int count = 0;
    struct dirent *entry;
    while ((entry = readdir(folder)) && count < 64) {
        struct stat status;
        char line[512];
        int found = fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0;
        const char *kind = !found                     ? "not found"
                           : S_ISDIR(status.st_mode)  ? "folder"
                           : S_ISLNK(status.st_mode)  ? "link"
                           : S_ISREG(status.st_mode)  ? "file"
                                                      : "other";
        int agrees = entry->d_type == DT_UNKNOWN || (mode_t)DTTOIF(entry->d_type) == (status.st_mode & S_IFMT);
        int dots = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
        snprintf(line, sizeof line, "%s, %s, %s", entry->d_name, kind,
                 dots || agrees ? "as d_type says" : "unlike d_type");
        names[count++] = strdup(line);
    }
    qsort(names, (size_t)count, sizeof *names, by_name);
    for (int i = 0; i < count; i++) printf("    %s\n", names[i]), free(names[i]);
    rewinddir(folder);
    int again = 0;
    while (readdir(folder)) again++;
    CHECK(again == count, "after rewinddir as many");
    closedir(folder);
}

static void reading(const char *folder) {
    list(folder);
    struct stat status;
    CHECK(stat(in(folder, "a.txt"), &status) == 0 && S_ISREG(status.st_mode) && status.st_size == 17,
          "stat of a file");
    CHECK(stat(folder, &status) == 0 && S_ISDIR(status.st_mode), "stat of a folder");
    CHECK(lstat(in(folder, "link"), &status) == 0 && S_ISLNK(status.st_mode), "lstat of a link");
    CHECK(stat(in(folder, "link"), &status) == 0 && S_ISREG(status.st_mode), "stat of a link");
    char text[256] = "";
    ssize_t length = readlink(in(folder, "link"), text, sizeof text);
    CHECK(length == 5 && !memcmp(text, "a.txt", 5), "readlink");
    int file = open(in(folder, "a.txt"), O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0, "open");
    CHECK(read(file, text, 6) == 6 && !memcmp(text, "alpha\n", 6), "read");
    CHECK(lseek(file, 0, SEEK_CUR) == 6, "the position");
    CHECK(pread(file, text, 5, 11) == 5 && !memcmp(text, "gamma", 5), "pread");
    CHECK(lseek(file, 0, SEEK_CUR) == 6, "which leaves it");
    CHECK(lseek(file, -6, SEEK_END) == 11 && read(file, text, sizeof text) == 6, "from the end");
    CHECK(read(file, text, sizeof text) == 0, "no more");
    CHECK_FAILS(lseek(file, -1, SEEK_SET), EINVAL, "lseek before the start");
    char part[2][4];
    struct iovec vector[2] = {{part[0], 4}, {part[1], 4}};
    CHECK(preadv(file, vector, 2, 1) == 8 && !memcmp(part[0], "lpha", 4) && part[1][0] == '\n',
          "preadv");
    CHECK(fcntl(file, F_GETFL) >= 0 && (fcntl(file, F_GETFL) & O_ACCMODE) == O_RDONLY, "F_GETFL");
    CHECK(fcntl(file, F_GETFD) == FD_CLOEXEC, "F_GETFD");
    CHECK_FAILS(write(file, "x", 1), EBADF, "write to a file opened for reading");
    int other = dup(file);
    CHECK(other > file && lseek(file, 3, SEEK_SET) == 3 && lseek(other, 0, SEEK_CUR) == 3,
          "dup shares the position");
    CHECK(dup2(file, 100) == 100 && lseek(100, 0, SEEK_CUR) == 3, "dup2");
    close(100);
    close(other);
    CHECK(!isatty(file), "a file is no terminal");
    struct stat opened;
    CHECK(fstat(file, &opened) == 0 && opened.st_size == 17, "fstat");
    char *mapped = mmap(NULL, 17, PROT_READ, MAP_PRIVATE, file, 0);
    CHECK(mapped != MAP_FAILED && !memcmp(mapped, "alpha\nbeta", 10), "a file mapped");
    CHECK(mapped != MAP_FAILED && mapped[17] == 0 && mapped[4095] == 0, "zeros after its end");
    if (mapped != MAP_FAILED) munmap(mapped, 17);
    mapped = mmap(NULL, 17, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    CHECK(mapped != MAP_FAILED && (mapped[0] = 'A') && pread(file, text, 1, 0) == 1 && text[0] == 'a',
          "a private mapping written, the file is as it was");
    close(file);
    CHECK_FAILS(read(file, text, 1), EBADF, "read of a closed file");
    CHECK_FAILS(close(file), EBADF, "closing it again");

    int at = open(folder, O_RDONLY | O_DIRECTORY);
    file = openat(at, "sub/inner.txt", O_RDONLY);
    CHECK(file >= 0 && read(file, text, sizeof text) == 6, "openat below a folder");
    close(file);
    CHECK(faccessat(at, "a.txt", R_OK, 0) == 0, "faccessat");
    CHECK_FAILS(read(at, text, 1), EISDIR, "read of a folder");
    close(at);
    FILE *stream = fopen(in(folder, "c.bin"), "rb");
    unsigned long sum = 0, bytes = 0;
    for (int byte; stream && (byte = fgetc(stream)) != EOF; bytes++) sum += (unsigned long)byte;
    CHECK(bytes == 25600 && sum == 3264000, "a stream: %lu bytes, sum %lu", bytes, sum);
    CHECK(stream && fseek(stream, 1000, SEEK_SET) == 0 && fgetc(stream) == 1000 % 256 &&
              ftell(stream) == 1001,
          "fseek and ftell");
    if (stream) fclose(stream);

    CHECK_FAILS(open(in(folder, "absent"), O_RDONLY), ENOENT, "open of what is absent");
    CHECK_FAILS(open(in(folder, "a.txt/x"), O_RDONLY), ENOTDIR, "open below a file");
    CHECK_FAILS(open(in(folder, "a.txt"), O_RDONLY | O_DIRECTORY), ENOTDIR, "a file as a folder");
    CHECK_FAILS(open("", O_RDONLY), ENOENT, "open of no name");
    CHECK_FAILS(stat(in(folder, "absent"), &status), ENOENT, "stat of what is absent");
    CHECK_FAILS(access(in(folder, "absent"), F_OK), ENOENT, "access to what is absent");
    CHECK(access(in(folder, "a.txt"), R_OK) == 0, "access to what is there");
    CHECK_FAILS(readlink(in(folder, "a.txt"), text, sizeof text), EINVAL, "readlink of a file");
    CHECK(!opendir(in(folder, "absent")) && errno == ENOENT, "opendir of what is absent");
    CHECK_FAILS(open(in(folder, "link"), O_RDONLY | O_NOFOLLOW), ELOOP, "O_NOFOLLOW of a link");
    char back[4200];
    snprintf(back, sizeof back, "%s/sub/../a.txt", folder);
    CHECK(stat(back, &status) == 0 && status.st_size == 17, "a path with ..");
    CHECK(chdir(folder) == 0 && stat("sub/inner.txt", &status) == 0, "a path from where one is");
    char *place = getcwd(text, sizeof text);
    CHECK(place && !strcmp(place, folder), "getcwd");
    CHECK(chdir("/") == 0, "and back");
}

// Only for a sandbox: Linux allows these to who may write there.
static void forbidden(const char *folder) {
    CHECK_FAILS(open(in(folder, "a.txt"), O_WRONLY), EROFS, "open for writing");
    CHECK_FAILS(open(in(folder, "new"), O_WRONLY | O_CREAT, 0600), EROFS, "open of a new one");
    CHECK_FAILS(open(in(folder, "a.txt"), O_RDONLY | O_TRUNC), EROFS, "O_TRUNC");
    CHECK_FAILS(unlink(in(folder, "a.txt")), EROFS, "unlink");
    CHECK_FAILS(mkdir(in(folder, "new"), 0700), EROFS, "mkdir");
    CHECK_FAILS(rmdir(in(folder, "sub")), EROFS, "rmdir");
    CHECK_FAILS(rename(in(folder, "a.txt"), in(folder, "new")), EROFS, "rename");
    CHECK_FAILS(symlink("a.txt", in(folder, "new")), EROFS, "symlink");
    CHECK_FAILS(truncate(in(folder, "a.txt"), 0), EROFS, "truncate");
    CHECK_FAILS(chmod(in(folder, "a.txt"), 0777), EROFS, "chmod");
    CHECK_FAILS(access(in(folder, "a.txt"), W_OK), EROFS, "access for writing");
    static const char *const PLACES[] = {"/etc/passwd", "/proc/1/maps", "/proc/self/mem",
                                         "/dev/kvm", "/dev/mem", "/root", "/home", "/bin/sh"};
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        CHECK(open(PLACES[i], O_RDONLY) == -1, "open of %s fails", PLACES[i]);
    }
    char path[4300];
    snprintf(path, sizeof path, "%s/../../../../../../../../etc/passwd", folder);
    CHECK(open(path, O_RDONLY) == -1, "nor is .. a way out");
    CHECK(open(in(folder, "outside"), O_RDONLY) == -1, "nor is a link");
    int at = open(folder, O_RDONLY | O_DIRECTORY);
    CHECK(openat(at, "../../../../../../../etc/passwd", O_RDONLY) == -1, "nor is openat");
    close(at);
}

static void writing(const char *folder) {
    const char *path = in(folder, "new.txt");
    int file = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(file >= 0, "a new file");
    CHECK_FAILS(open(path, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST, "O_EXCL of one that is there");
    CHECK(write(file, "0123456789", 10) == 10, "write");
    CHECK(pwrite(file, "XY", 2, 4) == 2, "pwrite");
    char text[64] = "";
    CHECK(pread(file, text, sizeof text, 0) == 10 && !memcmp(text, "0123XY6789", 10), "read back");
    CHECK(ftruncate(file, 6) == 0 && lseek(file, 0, SEEK_END) == 6, "shortened");
    CHECK(pwrite(file, "end", 3, 20000) == 3 && lseek(file, 0, SEEK_END) == 20003, "a hole");
    CHECK(pread(file, text, 8, 10000) == 8 && !memcmp(text, "\0\0\0\0\0\0\0\0", 8), "reads zero");
    struct iovec vector[2] = {{"ab", 2}, {"cd", 2}};
    CHECK(lseek(file, 0, SEEK_SET) == 0 && writev(file, vector, 2) == 4, "writev");
    CHECK(fsync(file) == 0 && fdatasync(file) == 0, "fsync");
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};
    CHECK(fcntl(file, F_SETLK, &range) == 0, "a part locked");
    range.l_type = F_UNLCK;
    CHECK(fcntl(file, F_SETLK, &range) == 0, "and unlocked");
    close(file);
    file = open(path, O_WRONLY | O_APPEND);
    CHECK(write(file, "app", 3) == 3 && lseek(file, 0, SEEK_CUR) == 20006, "O_APPEND");
    close(file);
    file = open(path, O_WRONLY | O_TRUNC);
    struct stat status;
    CHECK(fstat(file, &status) == 0 && status.st_size == 0, "O_TRUNC");
    close(file);
    FILE *stream = fopen(path, "w+");
    for (int i = 0; stream && i < 5000; i++) fprintf(stream, "line %d\n", i);
    rewind(stream);
    char line[64], last[64] = "";
    int lines = 0;
    while (fgets(line, sizeof line, stream)) lines++, strcpy(last, line);
    CHECK(lines == 5000 && !strcmp(last, "line 4999\n"), "a stream written and read");
    fclose(stream);
    CHECK(mkdir(in(folder, "d"), 0700) == 0, "mkdir");
    CHECK_FAILS(mkdir(in(folder, "d"), 0700), EEXIST, "mkdir again");
    CHECK(rename(path, in(folder, "d/moved")) == 0, "rename");
    CHECK_FAILS(rmdir(in(folder, "d")), ENOTEMPTY, "rmdir of a full folder");
    CHECK_FAILS(unlink(in(folder, "d/absent")), ENOENT, "unlink of what is absent");
    CHECK(unlink(in(folder, "d/moved")) == 0 && rmdir(in(folder, "d")) == 0, "both removed");
    file = open(in(folder, "gone"), O_RDWR | O_CREAT, 0600);
    unlink(in(folder, "gone"));
    CHECK(write(file, "still", 5) == 5 && pread(file, text, 5, 0) == 5, "a file without a name");
    close(file);
    list(folder);
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "read")) reading(argv[2]);
    else if (argc > 2 && !strcmp(argv[1], "write")) writing(argv[2]);
    else if (argc > 2 && !strcmp(argv[1], "forbidden")) forbidden(argv[2]);
    else return fprintf(stderr, "usage: files read|write|forbidden FOLDER\n"), 2;
    return conclude();
}
