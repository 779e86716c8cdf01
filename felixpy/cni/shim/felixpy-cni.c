/* The CNI plugin: hands CNI_* and stdin to the agent, and its answer back to the container runtime.
 *
 * In: environment, network configuration on stdin. Out: the agent's JSON on stdout and its exit status. It decides
 * nothing, holds no credentials and allocates no memory. Without an agent, DEL is kept on disk for the agent to do
 * when it starts, VERSION is answered here, and everything else asks the runtime to try again.
 * Source: CNI specification 1.1.0; the frames are described in ../wire.py.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_RUN_DIR "/run/felixpy"
#define SUPPORTED "[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"
#define NEWEST "1.1.0"

enum { CONFIG_MAX = 1 << 20, ENVIRONMENT_MAX = 1 << 16, ANSWER_MAX = 1 << 20, NAME_MAX_BYTES = 200 };
enum { CONNECT_TIMEOUT_MS = 900, ANSWER_TIMEOUT_MS = 60000, VERSION_PATIENCE_MS = 200 };
enum { CODE_ENVIRONMENT = 4, CODE_IO = 5, CODE_DECODE = 6, CODE_CONFIG = 7, CODE_TRY_AGAIN = 11, CODE_NOT_AVAILABLE = 50 };

struct request_header { char magic[4]; uint32_t environment_bytes, config_bytes; };
struct answer_header { char magic[4]; uint32_t exit_status, output_bytes; };

static char config[CONFIG_MAX + 1];
static char environment[ENVIRONMENT_MAX];
static char answer[ANSWER_MAX];
static char cni_version[32] = NEWEST;
static char run_dir[90] = DEFAULT_RUN_DIR; /* what sun_path can hold, with /cni.sock */
static size_t config_bytes, environment_bytes;

static int write_all(int fd, const void *data, size_t size) {
	const char *at = data;
	while (size) {
		ssize_t n = write(fd, at, size);
		if (n < 0 && errno == EINTR) continue;
		if (n <= 0) return -1;
		at += n;
		size -= n;
	}
	return 0;
}

/* Prints a CNI error; `message` holds no character that JSON escapes. */
static int fail(int code, const char *message, const char *details) {
	char text[1024];
	int n = snprintf(text, sizeof text, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n",
			 cni_version, code, message, details);
	write_all(STDOUT_FILENO, text, n < (int)sizeof text ? (size_t)n : sizeof text - 1);
	return 1;
}

static const char *skip_space(const char *p) {
	while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r') p++;
	return p;
}

/* The character after the string that begins at `p`, or NULL; its text goes to `out` where that is not NULL. */
static const char *read_string(const char *p, char *out, size_t room) {
	if (*p++ != '"') return NULL;
	size_t n = 0;
	for (; *p != '"'; p++) {
		if (*p == '\\') {
			p++;
			if (out && !strchr("/\\\"", *p)) return NULL;
		}
		if (!*p) return NULL;
		if (out) {
			if (n + 1 >= room) return NULL;
			out[n++] = *p;
		}
	}
	if (out) out[n] = 0;
	return p + 1;
}

/* The character after the value that begins at `p`, or NULL. */
static const char *skip_value(const char *p) {
	int depth = 0;
	do {
		p = skip_space(p);
		if (*p == '"') {
			if (!(p = read_string(p, NULL, 0))) return NULL;
		} else if (*p == '{' || *p == '[') {
			depth++;
			p++;
		} else if (*p == '}' || *p == ']') {
			if (--depth < 0) return NULL;
			p++;
		} else if (depth && (*p == ',' || *p == ':')) {
			p++;
			continue;
		} else {
			const char *start = p;
			while (*p && !strchr(",:]}[{\" \t\r\n", *p)) p++;
			if (p == start) return NULL;
		}
	} while (depth);
	return p;
}

/* Takes the two fields that matter here out of the configuration's outermost object. */
static int read_config_fields(void) {
	const char *p = skip_space(config);
	if (*p++ != '{') return -1;
	for (p = skip_space(p); *p != '}'; p = skip_space(p)) {
		char *out = NULL;
		size_t room = 0;
		const char *after = read_string(p, NULL, 0);
		if (!after) return -1;
		if (!strncmp(p, "\"runDir\"", 8)) out = run_dir, room = sizeof run_dir;
		else if (!strncmp(p, "\"cniVersion\"", 12)) out = cni_version, room = sizeof cni_version;
		p = skip_space(after);
		if (*p++ != ':') return -1;
		p = skip_space(p);
		if (!(p = out ? read_string(p, out, room) : skip_value(p))) return -1;
		p = skip_space(p);
		if (*p == ',') p++;
		else if (*p != '}') return -1;
	}
	for (const char *c = cni_version; *c; c++)
		if (!strchr("0123456789.", *c)) return -1;
	return 0;
}

static int read_config(void) {
	for (;;) {
		ssize_t n = read(STDIN_FILENO, config + config_bytes, sizeof config - config_bytes);
		if (n < 0 && errno == EINTR) continue;
		if (n < 0) return fail(CODE_IO, "cannot read the network configuration", strerror(errno));
		if (!n) return 0;
		config_bytes += n;
		if (config_bytes > CONFIG_MAX)
			return fail(CODE_CONFIG, "the network configuration is larger than 1 MiB", "");
	}
}

static int add_variable(const char *name) {
	const char *value = getenv(name);
	if (!value) return 0;
	size_t need = strlen(name) + strlen(value) + 2;
	if (need > sizeof environment - environment_bytes) return -1;
	environment_bytes += snprintf(environment + environment_bytes, need, "%s=%s", name, value) + 1;
	return 0;
}

static struct request_header request_header(void) {
	struct request_header header = {"FXQ1", htonl(environment_bytes), htonl(config_bytes)};
	return header;
}

/* A connection to the agent, or -1 with errno. */
static int connect_agent(void) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct timeval limit = {CONNECT_TIMEOUT_MS / 1000, CONNECT_TIMEOUT_MS % 1000 * 1000};
	snprintf(address.sun_path, sizeof address.sun_path, "%s/cni.sock", run_dir);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0) return -1;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* bounds connect too, on a full backlog */
	if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
		int saved = errno;
		close(fd);
		errno = saved;
		return -1;
	}
	return fd;
}

/* Which socket it was, so that a wrong runDir is seen; the path is left out where JSON would escape some of it. */
static const char *why_unreachable(void) {
	static char why[256];
	int saved = errno;
	for (const char *c = run_dir; *c; c++)
		if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') return strerror(saved);
	snprintf(why, sizeof why, "%s/cni.sock: %s", run_dir, strerror(saved));
	return why;
}

/* Sends the request, and the pod's network namespace with its first byte. */
static int send_request(int fd, int netns) {
	struct request_header header = request_header();
	char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec first = {&header, sizeof header};
	struct msghdr message = {.msg_iov = &first, .msg_iovlen = 1};
	if (netns >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof control;
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &netns, sizeof(int));
	}
	if (sendmsg(fd, &message, MSG_NOSIGNAL) != sizeof header) return -1;
	struct { const char *data; size_t size; } parts[] = {{environment, environment_bytes}, {config, config_bytes}};
	for (int i = 0; i < 2; i++)
		while (parts[i].size) {
			ssize_t n = send(fd, parts[i].data, parts[i].size, MSG_NOSIGNAL);
			if (n < 0 && errno == EINTR) continue;
			if (n <= 0) return -1;
			parts[i].data += n;
			parts[i].size -= n;
		}
	return 0;
}

static long now_ms(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int read_exactly(int fd, void *data, size_t size, long deadline) {
	char *at = data;
	while (size) {
		long left = deadline - now_ms();
		struct pollfd wait = {fd, POLLIN, 0};
		if (left <= 0 || (poll(&wait, 1, left) < 0 && errno != EINTR)) return -1;
		ssize_t n = recv(fd, at, size, MSG_DONTWAIT);
		if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
		if (n <= 0) return -1;
		at += n;
		size -= n;
	}
	return 0;
}

/* The agent's exit status once its answer is on stdout, or -1 where there was none (then nothing was printed). */
static int relay_answer(int fd) {
	struct answer_header header;
	long deadline = now_ms() + ANSWER_TIMEOUT_MS;
	if (read_exactly(fd, &header, sizeof header, deadline) || memcmp(header.magic, "FXA1", 4)) return -1;
	size_t size = ntohl(header.output_bytes);
	if (size > sizeof answer || read_exactly(fd, answer, size, deadline)) return -1;
	if (write_all(STDOUT_FILENO, answer, size)) return 1;
	return ntohl(header.exit_status) ? 1 : 0;
}

static int usable_in_file_name(const char *text) {
	return text && *text && *text != '.' && !strchr(text, '/') && strlen(text) < NAME_MAX_BYTES;
}

/* Keeps the request for the agent: DIR/cni-pending/CONTAINERID-IFNAME, whole or not at all, also after a power cut. */
static int keep_for_later(const char *container, const char *interface) {
	char directory[128], temporary[160], final[sizeof directory + 2 * NAME_MAX_BYTES + 8];
	struct request_header header = request_header();
	if (!usable_in_file_name(container) || !usable_in_file_name(interface)) {
		errno = EINVAL;
		return -1;
	}
	snprintf(directory, sizeof directory, "%s/cni-pending", run_dir);
	snprintf(temporary, sizeof temporary, "%s/.%d", directory, getpid());
	snprintf(final, sizeof final, "%s/%s-%s", directory, container, interface);
	mkdir(run_dir, 0755);
	mkdir(directory, 0700);
	int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0) return -1;
	int bad = write_all(fd, &header, sizeof header) || write_all(fd, environment, environment_bytes) ||
		  write_all(fd, config, config_bytes) || fsync(fd);
	bad = close(fd) || bad;
	if (bad || rename(temporary, final)) {
		unlink(temporary);
		return -1;
	}
	if ((fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) return -1;
	bad = fsync(fd);
	close(fd);
	return bad;
}

/* In the version that was asked in; people and some tools ask without a configuration. */
static int tell_versions(void) {
	char text[256];
	struct pollfd wait = {STDIN_FILENO, POLLIN, 0};
	if (!isatty(STDIN_FILENO) && poll(&wait, 1, VERSION_PATIENCE_MS) > 0) {
		if (read_config()) return 1;
		if (read_config_fields()) strcpy(cni_version, NEWEST);
	}
	int n = snprintf(text, sizeof text, "{\"cniVersion\":\"%s\",\"supportedVersions\":" SUPPORTED "}\n", cni_version);
	return write_all(STDOUT_FILENO, text, n) ? 1 : 0;
}

int main(void) {
	static const char *const names[] = {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"};
	const char *command = getenv("CNI_COMMAND"), *netns_path = getenv("CNI_NETNS");
	if (!command) {
		fputs("felixpy-cni: a CNI plugin, to be started by a container runtime (versions " SUPPORTED ")\n", stderr);
		return fail(CODE_ENVIRONMENT, "CNI_COMMAND is not set", "");
	}
	if (!strcmp(command, "VERSION")) return tell_versions();
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (add_variable(names[i])) return fail(CODE_ENVIRONMENT, "the CNI_ variables are larger than 64 KiB", "");
	if (read_config()) return 1;
	if (memchr(config, 0, config_bytes) || read_config_fields()) {
		strcpy(cni_version, NEWEST);
		return fail(CODE_DECODE, "the network configuration is no JSON object with usable cniVersion and runDir", "");
	}

	int netns = netns_path && *netns_path ? open(netns_path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
	int fd = connect_agent();
	const char *why = fd < 0 ? why_unreachable() : "the agent gave no answer";
	if (fd >= 0) {
		send_request(fd, netns); /* an agent that refuses the request early has still answered */
		int status = relay_answer(fd);
		if (status >= 0) return status;
	}
	if (!strcmp(command, "DEL")) {
		if (!keep_for_later(getenv("CNI_CONTAINERID"), getenv("CNI_IFNAME"))) return 0;
		return fail(CODE_TRY_AGAIN, "the agent is away and the DEL cannot be kept for it", strerror(errno));
	}
	if (!strcmp(command, "STATUS")) return fail(CODE_NOT_AVAILABLE, "the agent is not running", why);
	return fail(CODE_TRY_AGAIN, "the agent is not running", why);
}
